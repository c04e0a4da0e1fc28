#!/bin/sh
# Whole processes compared: what listening to every process of the host costs, and
# what it costs those who are listened to. See README.md, "Whole processes".
#
#   benches/compare.sh [-n ROUNDS] [-f FORKS] [-e EXITS] [-s STORM_CPU] [-l LISTENER_CPU]
#
# Each round runs the same storm of forks once without a listener and once with
# each, in an order that turns from round to round. Then single exits, one each
# 3 ms, tell how long each listener takes to deliver one. Needs root (or, since
# Linux 6.6, nothing in the initial namespaces), a C compiler, and two processors.
# forkstat(8) and extrace(1) take part where they are installed.
set -eu

rounds=10 forks=50000 exits=500 storm_cpu=0 listener_cpu=1
while getopts n:f:e:s:l: option; do
	case $option in
	n) rounds=$OPTARG ;;
	f) forks=$OPTARG ;;
	e) exits=$OPTARG ;;
	s) storm_cpu=$OPTARG ;;
	l) listener_cpu=$OPTARG ;;
	*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
work=$(mktemp -d)
listener=
finish() {
	if [ -n "$listener" ]; then kill "$listener" 2>/dev/null || :; fi
	rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cc=${CC:-cc}
for program in recv_loop storm exiter; do
	"$cc" -O2 -Wall -Wextra -o "$work/$program" "$here/c/$program.c"
done
# Copied, so that nobody builds another one in the middle of it.
(cd "$here" && cargo build --quiet --release -p kmonitor-benches --bin host_stream \
	--message-format=json) |
	sed -n 's/.*"executable":"\([^"]*host_stream\)".*/\1/p' >"$work/built"
cp "$(cat "$work/built")" "$work/host_stream"

# The listeners by name, and how each is started. recv_pause shows what reading in
# batches can gain, watch_one what the filter in the kernel does: it is told of one
# process, which does nothing.
names='none recv recv_pause hub hub_inline watch_one'
for program in forkstat extrace; do
	if command -v "$program" >/dev/null; then names="$names $program"; fi
done
all=$names
# What single exits are measured with: those that note the times.
noting='recv recv_pause hub hub_inline'

# Starts a listener, and waits until it listens.
start() {
	name=$1 stamps=${2-}
	case $name in
	recv) set -- "$work/recv_loop" 0 ;;
	recv_pause) set -- "$work/recv_loop" 1000 ;;
	hub) set -- "$work/host_stream" ;;
	hub_inline) set -- "$work/host_stream" --current-runtime ;;
	watch_one) set -- "$work/host_stream" --pid $$ ;;
	forkstat) set -- forkstat -e fork,exit ;;
	extrace) set -- extrace -t ;;
	esac
	case $name in
	recv*) ${stamps:+set -- "$@" "$stamps"} ;;
	*) ${stamps:+set -- "$@" --stamps "$stamps"} ;;
	esac
	: >"$work/said"
	taskset -c "$listener_cpu" "$@" >"$work/said" 2>/dev/null &
	listener=$!
	tries=0
	until listens; do
		tries=$((tries + 1))
		if [ "$tries" -gt 100 ] || ! kill -0 "$listener" 2>/dev/null; then
			echo "the listener $name did not start" >&2
			exit 1
		fi
		sleep 0.1
	done
}

# Ours say so. Of others the kernel says that they have a socket in the group.
listens() {
	case $name in
	forkstat | extrace)
		awk -v pid="$listener" '$2 == 11 && $3 == pid && $4 % 2 { found = 1 }
			END { exit !found }' /proc/net/netlink
		;;
	*) grep -q ready "$work/said" ;;
	esac
}

stop() {
	kill -TERM "$listener"
	# Some end by the signal.
	wait "$listener" 2>/dev/null || :
	listener=
}

# One storm under one listener: appends a line of name=value words to its file.
measure() {
	name=$1
	if [ "$name" != none ]; then start "$name"; fi
	taskset -c "$storm_cpu" "$work/storm" "$forks" >"$work/storm.out"
	said=
	case $name in
	none) ;;
	forkstat | extrace)
		# Until it has nothing more to print, or a moment: it does not say when it
		# has all, and on a busy machine there always is more.
		size=-1 tries=0
		while [ "$(wc -c <"$work/said")" -ne "$size" ] && [ "$tries" -lt 10 ]; do
			size=$(wc -c <"$work/said")
			tries=$((tries + 1))
			sleep 0.3
		done
		cpu=$(awk '{ printf "%d", $1 / 1000 }' "/proc/$listener/schedstat")
		stop
		# extrace prints an end only of who began with exec, so it has no events here.
		events=$(grep -cE ' (fork|exit) ' "$work/said" || :)
		if [ "$name" = extrace ]; then events=; fi
		# forkstat prints two lines of a fork: of the parent, and of the child.
		forked=$(grep -cE ' fork +.* child ' "$work/said" || :)
		said="cpu_us=$cpu ${events:+events=$((events - forked))}"
		;;
	*)
		stop
		said=$(sed -n '$p' "$work/said")
		;;
	esac
	echo "storm_$(cat "$work/storm.out") $said" >>"$work/$name"
}

echo "$rounds rounds of $forks forks; load averages $(cut -d' ' -f1-3 /proc/loadavg) at the start"
round=0
while [ "$round" -lt "$rounds" ]; do
	for name in $names; do measure "$name"; done
	# The first one goes last the next time.
	first=${names%% *}
	names="${names#* } $first"
	round=$((round + 1))
done
echo "load averages $(cut -d' ' -f1-3 /proc/loadavg) at the end"
echo

# The n-th line of each file is of the same round, so ratios are taken in pairs.
for name in $all; do
	sed "s/^/name=$name /" "$work/$name"
done | awk '
	function sort(list, count,   at, other, kept) {
		for (at = 2; at <= count; at++) {
			kept = list[at]
			for (other = at - 1; other > 0 && list[other] > kept; other--)
				list[other + 1] = list[other]
			list[other + 1] = kept
		}
	}
	function median(list, count) {
		sort(list, count)
		return count % 2 ? list[(count + 1) / 2] : (list[count / 2] + list[count / 2 + 1]) / 2
	}
	# How many of a sorted list lie outside of a 95 % interval for its median, on
	# each side: as many as a coin shows heads in so many throws, or fewer, in at
	# most 2.5 of 100 cases.
	function outside(count,   heads, ways, below) {
		ways = 1 / 2 ^ count
		for (heads = 0; below + ways <= 0.025; heads++) {
			below += ways
			ways *= (count - heads) / (heads + 1)
		}
		return heads
	}
	function interval(list, count, format,   left_out) {
		left_out = outside(count)
		return left_out ? sprintf(format "..." format, list[left_out], list[count + 1 - left_out]) : ""
	}
	{
		delete value
		for (word = 1; word <= NF; word++) {
			split($word, pair, "=")
			value[pair[1]] = pair[2]
		}
		name = value["name"]
		if (!(name in runs)) order[++listeners] = name
		run = ++runs[name]
		made = 2 * value["storm_forks"]
		wall[name, run] = value["wall_us"]
		# Of the storm alone: who is told of less has it cheaper, and shall.
		cpu[name, run] = value["cpu_us"] / made
		share[name, run] = cpu["recv", run] ? cpu[name, run] / cpu["recv", run] * 100 : 0
		slow[name, run] = (value["wall_us"] / wall["none", run] - 1) * 100
		if (!("events" in value) || name == "watch_one") { uncounted[name] = 1; next }
		events[name] += value["events"]
		lost[name] += value["kernel_dropped"]
		told[name] += value["lost"]
		# The storm alone makes so many; others on this machine add to it.
		missed = made - value["events"] - value["lost"]
		if (missed > 0) silent[name] += missed
	}
	END {
		print "Medians; in brackets their 95 % intervals. CPU time is per event of the storm."
		print ""
		printf "| %-10s | %12s | %21s | %11s | %26s | %9s | %7s | %7s | %7s |\n", "listener", \
			"CPU us/event", "of recv", "storm us", "slower by", "events", "dropped", "told", "silent"
		print "|------------|--------------|-----------------------|-------------|----------------------------|-----------|---------|---------|---------|"
		for (at = 1; at <= listeners; at++) {
			name = order[at]
			for (run = 1; run <= runs[name]; run++) {
				c[run] = cpu[name, run]; w[run] = wall[name, run]
				s[run] = slow[name, run]; r[run] = share[name, run]
			}
			count = runs[name]
			of_recv = sprintf("%.1f%%", median(r, count)) " [" interval(r, count, "%.0f") "]"
			slower = sprintf("%.1f%%", median(s, count)) " [" interval(s, count, "%.0f") "]"
			if (name == "none") of_recv = slower = "-"
			if (name in uncounted) events[name] = lost[name] = told[name] = silent[name] = "-"
			printf "| %-10s | %12.2f | %21s | %11.0f | %26s | %9s | %7s | %7s | %7s |\n", name, \
				median(c, count), of_recv, median(w, count), slower, \
				events[name], lost[name] + 0 || lost[name] == "-" ? lost[name] : 0, \
				told[name] + 0 || told[name] == "-" ? told[name] : 0, \
				silent[name] + 0 || silent[name] == "-" ? silent[name] : 0
		}
	}'

echo
echo "From the child's own clock just before _exit until it is told, microseconds, $exits exits:"
echo
echo "| listener   |    p50 |    p99 |    max | missed |"
echo "|------------|--------|--------|--------|--------|"
for name in $noting; do
	start "$name" "$work/stamps"
	taskset -c "$storm_cpu" "$work/exiter" "$exits" 3000 >"$work/ended"
	stop
	awk 'NR == FNR { told[$1] = $2; next }
		!($1 in told) { print "missed"; next }
		{ printf "%.1f\n", (told[$1] - $2) / 1000 }' "$work/stamps" "$work/ended" |
		sort -n >"$work/latencies"
	awk -v name="$name" '/missed/ { missed++; next }
		{ taken[++count] = $1 }
		END { printf "| %-10s | %6.0f | %6.0f | %6.0f | %6d |\n", name, \
			taken[int((count + 1) * .5)], taken[int((count + 1) * .99)], taken[count], missed }
	' "$work/latencies"
done
