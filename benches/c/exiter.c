// exiter COUNT GAP_US: makes that many children, one each GAP_US, each of which
// notes the time just before it exits. Prints "pid nanoseconds" (CLOCK_MONOTONIC)
// for each, when all have gone.
//
// The note is a store to shared memory: nothing lies between it and _exit.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long count = argc > 2 ? strtol(argv[1], NULL, 10) : 0;
	long gap_us = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
	struct timespec *ended;
	pid_t *pids;

	if (count <= 0) {
		fprintf(stderr, "usage: exiter COUNT GAP_US\n");
		return 2;
	}
	ended = mmap(NULL, count * sizeof(*ended), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	pids = calloc(count, sizeof(*pids));
	if (ended == MAP_FAILED || !pids) {
		perror("memory");
		return 1;
	}
	for (long made = 0; made < count; made++) {
		pids[made] = fork();
		if (pids[made] == 0) {
			clock_gettime(CLOCK_MONOTONIC, &ended[made]);
			_exit(0);
		}
		if (pids[made] < 0) {
			perror("fork");
			return 1;
		}
		while (waitpid(pids[made], NULL, 0) < 0 && errno == EINTR)
			;
		usleep(gap_us);
	}
	for (long made = 0; made < count; made++)
		printf("%d %lld\n", pids[made],
		       ended[made].tv_sec * 1000000000LL + ended[made].tv_nsec);
	return 0;
}
