// connector_recv: for each pid that comes as a line, prints "ready", receives the proc
// connector's events until the exit of that process is among them, and prints the clock
// (CLOCK_MONOTONIC, nanoseconds). The least that a program can do that is told of exits
// by the connector: the kernel sends that event after it has woken those who poll pidfds.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "connector.h"

int main(void)
{
	char line[32], bytes[128];
	struct timespec now;
	int fd = open_connector();

	request(fd, PROC_CN_MCAST_LISTEN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		int wanted = atoi(line), tgid = 0;

		// What has come by now is of those before.
		while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
			;
		puts("ready");
		while (tgid != wanted) {
			ssize_t length = recv(fd, bytes, sizeof(bytes), 0);
			unsigned what;

			if (length < 60)
				continue;
			memcpy(&what, bytes + 36, sizeof(what));
			if (what == 0x80000000)
				memcpy(&tgid, bytes + 56, sizeof(tgid));
		}
		clock_gettime(CLOCK_MONOTONIC, &now);
		printf("%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	}
	// Or the kernel would count us as a listener for ever (before Linux 6.6).
	request(fd, PROC_CN_MCAST_IGNORE);
	return 0;
}
