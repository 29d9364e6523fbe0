/* The system's clock as a process sees it, ahead by the milliseconds that a file says: loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) {
        real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    int result = real(clock, now);
    const char *path = getenv("CLOCK_SHIM_FILE");
    if (result != 0 || clock != CLOCK_REALTIME || !path) {
        return result;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return result;
    }
    char text[32] = {0};
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    if (size > 0) {
        now->tv_sec += atoll(text) / 1000;
    }
    return result;
}
