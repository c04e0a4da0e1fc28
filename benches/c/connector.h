// The proc connector: a socket in its group, and what is asked of the kernel by it.
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

// What kmonitor asks for.
#define RECEIVE_BUFFER_BYTES (32 << 20)

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void request(int fd, unsigned operation)
{
	struct {
		struct nlmsghdr header;
		struct cn_msg message;
		unsigned operation;
	} __attribute__((packed)) bytes;

	memset(&bytes, 0, sizeof(bytes));
	bytes.header.nlmsg_len = sizeof(bytes);
	bytes.header.nlmsg_type = NLMSG_DONE;
	bytes.message.id.idx = CN_IDX_PROC;
	bytes.message.id.val = CN_VAL_PROC;
	bytes.message.len = sizeof(bytes.operation);
	bytes.operation = operation;
	if (send(fd, &bytes, sizeof(bytes), 0) < 0)
		die("send");
}

static int open_connector(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = CN_IDX_PROC};
	int bytes = RECEIVE_BUFFER_BYTES;
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_CONNECTOR);

	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) < 0 &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) < 0)
		die("setsockopt");
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		die("bind");
	return fd;
}
