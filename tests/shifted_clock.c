/* The wall clock of one process, SHIFT_S seconds ahead of the machine's; to be preloaded.

   Monotonic time stays. A wait until a moment on the wall clock is handed to the kernel on the machine's own. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define A_MOMENT 1000000000 /* s; monotonic clocks, which count from a start, have not come so far */

static time_t ahead(void) {
    const char *text = getenv("SHIFT_S");
    return text ? atol(text) : 0;
}

static const struct timespec *on_the_machine(const struct timespec *moment, struct timespec *place) {
    if (!moment || moment->tv_sec < A_MOMENT) return moment;
    *place = *moment;
    place->tv_sec -= ahead();
    return place;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = REAL(clock_gettime)(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int failed = REAL(gettimeofday)(now, zone);
    if (!failed) now->tv_sec += ahead();
    return failed;
}

time_t time(time_t *now) {
    struct timespec moment;
    clock_gettime(CLOCK_REALTIME, &moment);
    if (now) *now = moment.tv_sec;
    return moment.tv_sec;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict end) {
    struct timespec place;
    return REAL(sem_timedwait)(semaphore, on_the_machine(end, &place));
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict end) {
    struct timespec place;
    return REAL(pthread_cond_timedwait)(condition, mutex, on_the_machine(end, &place));
}

long syscall(long number, ...) {
    struct timespec place;
    long of[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) of[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_futex && of[1] & FUTEX_CLOCK_REALTIME)
        of[3] = (long)on_the_machine((const struct timespec *)of[3], &place);
    return REAL(syscall)(number, of[0], of[1], of[2], of[3], of[4], of[5]);
}
