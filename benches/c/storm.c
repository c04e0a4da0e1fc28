// storm FORKS: makes that many children, one after the other, each of which
// exits at once: two events each, as fast as one core can. Prints
// "forks=N wall_us=N".
//
// vfork, because then the parent waits for the child and no memory is copied:
// the events are most of what it costs.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	long forks = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
	long long began;

	if (forks <= 0) {
		fprintf(stderr, "usage: storm FORKS\n");
		return 2;
	}
	began = now_us();
	for (long made = 0; made < forks; made++) {
		pid_t child = vfork();

		if (child == 0)
			_exit(0);
		if (child < 0) {
			perror("vfork");
			return 1;
		}
		while (waitpid(child, NULL, 0) < 0) {
			if (errno != EINTR) {
				perror("waitpid");
				return 1;
			}
		}
	}
	printf("forks=%ld wall_us=%lld\n", forks, now_us() - began);
	return 0;
}
