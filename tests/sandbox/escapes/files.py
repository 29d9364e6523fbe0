"""Attempts to reach files of the host."""

from __future__ import annotations

import ctypes
import os
from functools import partial

from tests.sandbox.escapes.kit import (
    Attempt,
    Host,
    call,
    escape,
    listed,
    read,
    then,
    write,
)


@escape
def key_of_the_node(host: Host, attempt: Attempt) -> None:
    attempt("read", lambda: read(host["key"]))
    attempt("list its directory", lambda: os.listdir(host["data"]))
    attempt("read upwards", lambda: read("../" * 12 + host["key"]))
    attempt("read through the root of proc", lambda: read("/proc/self/root" + host["key"]))
    attempt("read through a link", lambda: then(lambda: os.symlink(host["key"], "key-link"), lambda: read("key-link")))
    attempt(
        "read through a linked directory",
        lambda: then(lambda: os.symlink("/", "root-link"), lambda: read("root-link" + host["key"])),
    )
    attempt("read through /dev/fd", lambda: read("/dev/fd/../root" + host["key"]))


@escape
def files_of_the_node_changed(host: Host, attempt: Attempt) -> None:
    key, data = host["key"], host["data"]
    attempt("open for writing", lambda: os.open(key, os.O_WRONLY))
    attempt("truncate", lambda: os.truncate(key, 0))
    attempt("make a file beside it", lambda: write(data + "/planted"))
    attempt("remove", lambda: os.unlink(key))
    attempt("rename", lambda: os.rename(key, data + "/other"))
    attempt("make a directory", lambda: os.mkdir(data + "/directory"))
    attempt("plant a link", lambda: os.symlink("/", data + "/link"))


@escape
def attributes_of_the_node_files(host: Host, attempt: Attempt) -> None:
    """Landlock covers none of these."""
    key = host["key"]
    attempt("chmod", lambda: os.chmod(key, 0o644))
    attempt("chmod by number", lambda: call(host, "fchmodat2", -100, key.encode(), 0o644, 0))
    attempt("chown", lambda: os.chown(key, os.getuid(), os.getgid()))
    attempt("lchown", lambda: os.lchown(key, os.getuid(), os.getgid()))
    attempt("times", lambda: os.utime(key, (1, 1)))
    attempt("attribute", lambda: os.setxattr(key, "user.probe", b"1"))
    attempt("chmod of the directory", lambda: os.chmod(host["data"], 0o777))
    attempt("watch", lambda: watch(host, host["data"]))


def watch(host: Host, path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(0)
    if fd < 0 or libc.inotify_add_watch(fd, path.encode(), 0xFFF) < 0:
        raise OSError(ctypes.get_errno(), "inotify")


@escape
def hard_links_to_host_files(host: Host, attempt: Attempt) -> None:
    attempt("the key", lambda: os.link(host["key"], "linked"))
    attempt("a file of the host's /tmp", lambda: os.link(host["tmp_file"], "linked"))
    attempt("a set-user-ID program", lambda: os.link("/usr/bin/su", "linked"))
    attempt("an open file by its descriptor", lambda: os.link("/proc/self/fd/0", "linked", follow_symlinks=True))


@escape
def other_files_of_the_host(host: Host, attempt: Attempt) -> None:
    for path in ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/machine-id", host["tmp_file"], host["shm_file"]):
        attempt(path, partial(read, path))
    for path in ("/root", "/home", "/var/log", "/var/lib", "/run", "/boot", "/mnt", "/srv", "/sys", host["parent"]):
        attempt(path, partial(listed, path))


@escape
def programs_of_the_host_changed(host: Host, attempt: Attempt) -> None:
    for path in ("/usr/bin/probe", "/usr/lib/probe", "/usr/local/bin/probe", "/bin/probe", "/lib/probe", "/probe"):
        attempt(path, partial(write, path))
    own = (
        f"/var/tmp/crabnet-probe-{os.getuid()}"  # where everybody may write: a file of another user would be in the way
    )
    for path in ("/etc/ld.so.preload", "/etc/probe", "/var/probe", own, "/opt/probe", "/dev/probe"):
        attempt(path, partial(write, path))
    attempt("open a program", lambda: os.open("/usr/bin/env", os.O_RDWR))
    attempt("remove a program", lambda: os.unlink("/usr/bin/env"))
    attempt("mode of a program", lambda: os.chmod("/usr/bin/env", 0o777))


@escape
def upwards_out_of_the_root(host: Host, attempt: Attempt) -> None:
    def climb() -> object:
        fd = os.open(".", os.O_RDONLY)
        for _ in range(64):
            fd = os.open("..", os.O_RDONLY, dir_fd=fd)
        return read(os.open(host["key"].lstrip("/"), os.O_RDONLY, dir_fd=fd))

    attempt("by descriptors", climb)
    attempt("by chdir", lambda: then(lambda: os.chdir("../" * 64), lambda: read(host["key"].lstrip("/"))))
    attempt("chroot", lambda: os.chroot("."))
    attempt("by handle", lambda: call(host, "open_by_handle_at", -100, b"\0" * 64, 0))
    attempt("pivot_root", lambda: call(host, "pivot_root", b".", b"."))


@escape
def work_dir_taken_away(host: Host, attempt: Attempt) -> None:
    here = os.environ["HOME"]
    attempt("rename it", lambda: os.rename(here, here + "-moved"))
    attempt("remove it", lambda: os.rmdir(here))
    attempt("replace it by a link", lambda: then(lambda: os.rmdir(here), lambda: os.symlink("/", here)))
    attempt("make a file beside it", lambda: write(here + "-beside"))
