// born: says that it runs, its pid and the time (CLOCK_MONOTONIC, nanoseconds) as
// two 64-bit numbers, to the FIFO that $BORN names, and waits for ever.
//
// The time is taken first of all: what a supervisor has to do lies before it.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	int64_t said[2] = { getpid(), now.tv_sec * 1000000000LL + now.tv_nsec };
	const char *path = getenv("BORN");
	int fifo = path ? open(path, O_WRONLY | O_CLOEXEC) : -1;

	// So few bytes are written at once or not at all.
	if (fifo < 0 || write(fifo, said, sizeof said) != sizeof said)
		return 1;
	close(fifo);
	for (;;)
		pause();
}
