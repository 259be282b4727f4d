"""Trackers: programs that draw runs, fed with what the Recorder was told. None of them can stop or slow a run."""
