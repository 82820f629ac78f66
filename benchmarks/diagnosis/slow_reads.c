// LD_PRELOAD: each pread of a shard (*.tar) takes SLOW_READ_MS longer, as from a disk that is far away.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static void wait_if_shard(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 4 || memcmp(path + length - 4, ".tar", 4)) return;
    double ms = atof(getenv("SLOW_READ_MS"));
    struct timespec pause = {(time_t)(ms / 1000), (long)(ms * 1e6) % 1000000000};
    nanosleep(&pause, NULL);
}

#define SLOW(name, offset_type)                                             \
    ssize_t name(int fd, void *buffer, size_t count, offset_type offset) {  \
        static ssize_t (*real)(int, void *, size_t, offset_type);           \
        if (!real) real = (typeof(real))dlsym(RTLD_NEXT, #name);            \
        wait_if_shard(fd);                                                  \
        return real(fd, buffer, count, offset);                             \
    }

SLOW(pread, off_t)
SLOW(pread64, off64_t)
