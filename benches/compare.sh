#!/bin/sh
# Whole processes compared: what listening to every process of the host costs, and
# what it costs those who are listened to. See README.md, "Whole processes".
#
#   benches/compare.sh [-n ROUNDS] [-f FORKS] [-s STORM_CPU] [-l LISTENER_CPU]
#
# Each round runs the same storm of forks once without a listener and once with
# each, in an order that turns from round to round. Needs root (or, since Linux
# 6.6, nothing in the initial namespaces), a C compiler, and two processors.
set -eu

rounds=10 forks=50000 storm_cpu=0 listener_cpu=1
while getopts n:f:s:l: option; do
	case $option in
	n) rounds=$OPTARG ;;
	f) forks=$OPTARG ;;
	s) storm_cpu=$OPTARG ;;
	l) listener_cpu=$OPTARG ;;
	*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
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
"$cc" -O2 -Wall -Wextra -o "$work/recv_loop" "$here/c/recv_loop.c"
"$cc" -O2 -Wall -Wextra -o "$work/storm" "$here/c/storm.c"
# Copied, so that nobody builds another one in the middle of it.
(cd "$here" && cargo build --quiet --release -p kmonitor-benches --bin host_stream \
	--message-format=json) |
	sed -n 's/.*"executable":"\([^"]*host_stream\)".*/\1/p' >"$work/built"
cp "$(cat "$work/built")" "$work/host_stream"

# The listeners by name, and how each is started. The C ones that pause show what
# reading in batches can gain.
names='none recv recv_pause hub hub_inline'
start() {
	case $1 in
	recv) set -- "$work/recv_loop" ;;
	recv_pause) set -- "$work/recv_loop" 1000 ;;
	hub) set -- "$work/host_stream" ;;
	hub_inline) set -- "$work/host_stream" --current-runtime ;;
	esac
	: >"$work/said"
	taskset -c "$listener_cpu" "$@" >"$work/said" &
	listener=$!
	tries=0
	until grep -q ready "$work/said"; do
		tries=$((tries + 1))
		if [ "$tries" -gt 100 ] || ! kill -0 "$listener" 2>/dev/null; then
			echo "the listener $1 did not start" >&2
			exit 1
		fi
		sleep 0.1
	done
}

# One storm under one listener: appends a line of name=value words to its file.
measure() {
	name=$1
	if [ "$name" != none ]; then start "$name"; fi
	taskset -c "$storm_cpu" "$work/storm" "$forks" >"$work/storm.out"
	said=
	if [ "$name" != none ]; then
		kill -TERM "$listener"
		wait "$listener"
		listener=
		said=$(sed -n '$p' "$work/said")
	fi
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

# The n-th line of each file is of the same round, so slow-downs are taken in pairs.
for name in none recv recv_pause hub hub_inline; do
	sed "s/^/name=$name /" "$work/$name"
done | awk '
	function median(list, count,   at, other, kept) {
		for (at = 2; at <= count; at++) {
			kept = list[at]
			for (other = at - 1; other > 0 && list[other] > kept; other--)
				list[other + 1] = list[other]
			list[other + 1] = kept
		}
		return count % 2 ? list[(count + 1) / 2] : (list[count / 2] + list[count / 2 + 1]) / 2
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
		wall[name, run] = value["wall_us"]
		cpu[name, run] = value["events"] ? value["cpu_us"] / (value["events"] + value["lost"]) : 0
		slow[name, run] = (value["wall_us"] / wall["none", run] - 1) * 100
		events[name] += value["events"]
		lost[name] += value["kernel_dropped"]
		told[name] += value["lost"]
		# The storm alone makes so many; others on this machine add to it.
		missed = 2 * value["storm_forks"] - value["events"] - value["lost"]
		if (name != "none" && missed > 0) silent[name] += missed
	}
	END {
		printf "| %-10s | %13s | %11s | %9s | %15s | %11s | %8s | %6s |\n", "listener", \
			"CPU us/event", "storm us", "slower by", "events", "lost", "told", "silent"
		print "|------------|---------------|-------------|-----------|-----------------|-------------|----------|--------|"
		for (at = 1; at <= listeners; at++) {
			name = order[at]
			for (run = 1; run <= runs[name]; run++) {
				c[run] = cpu[name, run]; w[run] = wall[name, run]; s[run] = slow[name, run]
			}
			printf "| %-10s | %13.2f | %11.0f | %8.1f%% | %15d | %11d | %8d | %6d |\n", name, \
				median(c, runs[name]), median(w, runs[name]), median(s, runs[name]), \
				events[name], lost[name], told[name], silent[name]
		}
	}'
