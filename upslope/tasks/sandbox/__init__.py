"""Programs that a model wrote are run here, and nowhere else: what they can reach is decided by the kernel.

``confine`` and ``system_calls`` are the walls, ``zygote`` is the small process from which every attempt is forked,
``wire`` and ``peer`` carry plain data between the two processes of an attempt (the program, and the tests that judge
it), ``candidate`` and ``checker`` are what runs in them, and ``pool`` is the side that asks. docs/code.md says what is
protected, by what, and what is not.
"""
