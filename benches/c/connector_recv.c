// connector_recv: for each pid that comes as a line, prints "ready", receives the proc
// connector's events until the exit of that process is among them, and prints the clock
// (CLOCK_MONOTONIC, nanoseconds). The least that a program can do that is told of exits
// by the connector: the kernel sends that event after it has woken those who poll pidfds.
#define _GNU_SOURCE
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int listening(void)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC };
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);
	struct {
		struct nlmsghdr header;
		struct cn_msg message;
		unsigned operation;
	} __attribute__((packed)) request;

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("netlink");
	memset(&request, 0, sizeof(request));
	request.header.nlmsg_len = sizeof(request);
	request.header.nlmsg_type = NLMSG_DONE;
	request.message.id.idx = CN_IDX_PROC;
	request.message.id.val = CN_VAL_PROC;
	request.message.len = sizeof(request.operation);
	request.operation = PROC_CN_MCAST_LISTEN;
	if (send(fd, &request, sizeof(request), 0) < 0)
		die("send");
	return fd;
}

int main(void)
{
	char line[32], bytes[128];
	struct timespec now;
	int fd = listening();

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
	return 0;
}
