"""The supervisor: a process between a node and a command. It starts, watches and signals the command.

It is forked from a separate program (``python -I -S``, see ``template``) that uses only the standard library, because
only a process without threads can do this safely. The supervisor is the parent and the subreaper of every process of
the run (prctl(2), PR_SET_CHILD_SUBREAPER). So no process can hide by leaving the session, none becomes a zombie of the
node, and their CPU time is counted together.

When the node dies in any way, the control socket closes and the supervisor kills everything. When the supervisor dies,
PDEATHSIG kills the command, and through bwrap the whole sandbox.
"""
