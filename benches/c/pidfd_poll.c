// pidfd_poll: for each pid that comes as a line, opens a pidfd, prints "ready", polls
// it, and prints the clock (CLOCK_MONOTONIC, nanoseconds) when the process has died.
// The least that a program can do to wait for a process that is not its child.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	char line[32];
	struct timespec now;

	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		struct pollfd dying = { .events = POLLIN };

		dying.fd = syscall(SYS_pidfd_open, atoi(line), 0);
		if (dying.fd < 0) {
			perror("pidfd_open");
			return 1;
		}
		puts("ready");
		while (poll(&dying, 1, -1) < 0 && errno == EINTR)
			;
		clock_gettime(CLOCK_MONOTONIC, &now);
		printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
		close(dying.fd);
	}
	return 0;
}
