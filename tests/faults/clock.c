/* A wall clock that a test can set: preloaded, it adds clock_offset to what the system says. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

long clock_offset = 0; /* s */

int clock_gettime(clockid_t id, struct timespec *now) {
  int status = syscall(SYS_clock_gettime, id, now);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) now->tv_sec += clock_offset;
  return status;
}

int gettimeofday(struct timeval *now, void *zone) {
  int status = syscall(SYS_gettimeofday, now, zone);
  now->tv_sec += clock_offset;
  return status;
}

time_t time(time_t *place) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (place) *place = now.tv_sec;
  return now.tv_sec;
}
