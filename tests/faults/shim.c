/* LD_PRELOAD: make the FAULT_AT-th file call below FAULT_DIR fail, write short, or be the last of the process.
 *
 * FAULT_DIR   directory whose files count
 * FAULT_AT    number of the call, from 1; 0 only counts
 * FAULT_MODE  error | sticky | short | shorterror | kill | killafter | halfkill | fsyncdrop
 * FAULT_ERRNO errno of a failure
 * FAULT_LOG   file that gets one line for every call
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum verdict { PASS, FAIL, CUT, KILL_AFTER, HALF_KILL, DROP };

#define FDS_MAX 4096
static char directory[PATH_MAX];
static size_t directory_len;
static long fault_at, calls;
static const char *mode = "error";
static int fault_errno = EIO, log_fd = -1;
static off_t durable[FDS_MAX];

__attribute__((constructor)) static void start(void)
{
    const char *text = getenv("FAULT_DIR");
    if (text) {
        snprintf(directory, sizeof directory, "%s", text);
        directory_len = strlen(directory);
    }
    if ((text = getenv("FAULT_AT"))) fault_at = atol(text);
    if ((text = getenv("FAULT_MODE"))) mode = text;
    if ((text = getenv("FAULT_ERRNO"))) fault_errno = atoi(text);
    if ((text = getenv("FAULT_LOG")))
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int ours(const char *path)
{
    return directory_len && path && !strncmp(path, directory, directory_len);
}

static int our_fd(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = directory_len ? readlink(link, path, PATH_MAX - 1) : -1;
    if (len < 0) return 0;
    path[len] = 0;
    return ours(path);
}

static int is(const char *name) { return !strcmp(mode, name); }
static void die(void) { kill(getpid(), SIGKILL); pause(); }

static enum verdict judge(const char *call, const char *path)
{
    long number = __sync_add_and_fetch(&calls, 1);
    if (log_fd >= 0) {
        char line[PATH_MAX + 64];
        int len = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path);
        syscall(SYS_write, log_fd, line, (size_t)len);
    }
    if (!fault_at) return PASS;
    if (is("sticky")) return number >= fault_at && strcmp(call, "close") ? FAIL : PASS;
    if (is("shorterror") && number == fault_at + 1) return FAIL;
    if (number != fault_at) return PASS;
    if (is("kill")) die();
    if (is("killafter")) return KILL_AFTER;
    if (is("halfkill")) return HALF_KILL;
    if (is("short") || is("shorterror")) return CUT;
    return is("fsyncdrop") ? DROP : FAIL;
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* A fault that suits only writes counts as a failure for other calls, a half write as a kill before. */
#define GUARD(verdict)                                                                                                 \
    if ((verdict) == HALF_KILL) die();                                                                                 \
    if ((verdict) == FAIL || (verdict) == CUT || (verdict) == DROP) {                                                  \
        errno = fault_errno;                                                                                           \
        return -1;                                                                                                     \
    }

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    char path[PATH_MAX];
    if (!our_fd(fd, path)) return real(fd, data, size, offset);
    enum verdict verdict = judge("pwrite", path);
    if (verdict == FAIL || verdict == DROP) {
        errno = fault_errno;
        return -1;
    }
    ssize_t done = real(fd, data, verdict == CUT || verdict == HALF_KILL ? size / 2 : size, offset);
    if (verdict == HALF_KILL || verdict == KILL_AFTER) die();
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

static int sync_with(int (*real)(int), const char *call, int fd)
{
    char path[PATH_MAX];
    struct stat status;
    if (!our_fd(fd, path)) return real(fd);
    enum verdict verdict = judge(call, path);
    if (verdict == DROP && fd < FDS_MAX && !fstat(fd, &status) && S_ISREG(status.st_mode)) {
        if (ftruncate(fd, durable[fd])) perror("ftruncate");
    }
    GUARD(verdict)
    int done = real(fd);
    if (!done && fd < FDS_MAX && !fstat(fd, &status)) durable[fd] = status.st_size;
    if (verdict == KILL_AFTER) die();
    return done;
}
int fsync(int fd) { REAL(int, "fsync", int); return sync_with(real, "fsync", fd); }
int fdatasync(int fd) { REAL(int, "fdatasync", int); return sync_with(real, "fdatasync", fd); }

int flock(int fd, int operation)
{
    REAL(int, "flock", int, int);
    char path[PATH_MAX];
    if (!our_fd(fd, path)) return real(fd, operation);
    enum verdict verdict = judge("flock", path);
    GUARD(verdict)
    int done = real(fd, operation);
    if (verdict == KILL_AFTER) die();
    return done;
}

int posix_fallocate64(int fd, off_t offset, off_t size)
{
    REAL(int, "posix_fallocate64", int, off_t, off_t);
    char path[PATH_MAX];
    if (!our_fd(fd, path)) return real(fd, offset, size);
    enum verdict verdict = judge("fallocate", path);
    if (verdict == HALF_KILL) die();
    if (verdict == FAIL || verdict == CUT || verdict == DROP) return fault_errno;
    int done = real(fd, offset, size);
    if (verdict == KILL_AFTER) die();
    return done;
}
int posix_fallocate(int fd, off_t offset, off_t size) { return posix_fallocate64(fd, offset, size); }

int rename(const char *source, const char *target)
{
    REAL(int, "rename", const char *, const char *);
    if (!ours(target)) return real(source, target);
    enum verdict verdict = judge("rename", target);
    GUARD(verdict)
    int done = real(source, target);
    if (verdict == KILL_AFTER) die();
    return done;
}

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    if (!ours(path)) return real(path);
    enum verdict verdict = judge("unlink", path);
    GUARD(verdict)
    int done = real(path);
    if (verdict == KILL_AFTER) die();
    return done;
}

int mkdir(const char *path, mode_t permissions)
{
    REAL(int, "mkdir", const char *, mode_t);
    if (!ours(path)) return real(path, permissions);
    enum verdict verdict = judge("mkdir", path);
    GUARD(verdict)
    int done = real(path, permissions);
    if (verdict == KILL_AFTER) die();
    return done;
}

static int open_with(int (*real)(const char *, int, ...), const char *path, int flags, mode_t permissions)
{
    struct stat status;
    if (!ours(path)) return real(path, flags, permissions);
    enum verdict verdict = judge("open", path);
    GUARD(verdict)
    int fd = real(path, flags, permissions);
    if (fd >= 0 && fd < FDS_MAX && !fstat(fd, &status)) durable[fd] = status.st_size;
    if (verdict == KILL_AFTER) die();
    return fd;
}
#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        mode_t permissions = 0;                                                                                        \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                           \
            va_list rest;                                                                                              \
            va_start(rest, flags);                                                                                     \
            permissions = va_arg(rest, mode_t);                                                                        \
            va_end(rest);                                                                                              \
        }                                                                                                              \
        REAL(int, #name, const char *, int, ...);                                                                      \
        return open_with(real, path, flags, permissions);                                                              \
    }
OPEN(open)
OPEN(open64)
