"""The crash-state explorer: what a power cut can leave, and what `recover` and `verify` make of it.

    make crash-states                           # 1,000 states, SEED=1
    make crash-states STATES=3000 SEED=7

``runs`` are played by a process under strace; ``trace`` reads its file operations, ``disk`` knows
which of them a power cut can take, ``explorer`` builds such states and runs the commands in them,
and ``checker`` compares the result with what was sent, without any code of the package.
"""
