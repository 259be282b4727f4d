"""Weights that change as the run goes on, and things written down beside the values."""


def staged(completions, trainer_state, log_metric=None, log_extra=None, **kwargs):
    share = trainer_state.global_step / max(trainer_state.max_steps, 1)
    values = [(1 - share) * len(c) for c in completions]
    if log_metric:
        log_metric("longest", max(values))
    if log_extra:
        log_extra("opening", [c[:3] for c in completions])
    return values
