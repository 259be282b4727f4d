"""What a cluster would need and do: memory by arithmetic, time by rates, the whole of it by simulation."""
