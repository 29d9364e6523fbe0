"""The process between a node and a command: starts it, watches it, signals it, outlives nothing of it.

It is forked from a program of its own (``python -I -S``, see ``template``), on the standard library alone, because only
a process without threads can do this safely: it is the parent and the subreaper of every process of the run (prctl(2),
PR_SET_CHILD_SUBREAPER), so none can hide by leaving the session, none becomes a zombie of the node, and their CPU
time is counted together. When the node dies, however it dies, the control socket closes and everything is killed;
when this process dies, PDEATHSIG kills the command, and through bwrap the whole sandbox.
"""
