#!/bin/busybox sh
# The first process of a guest: makes a small Linux of the initramfs, then runs
# what the lab asks for on the port `lab`. A step that fails ends this process,
# and with it the guest, with the kernel's panic and the reason on the console.
set -e
/bin/busybox mkdir -p /bin /sbin /usr/bin /usr/sbin /proc /sys /dev /run /tmp
/bin/busybox --install -s
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
for module in $(cat /etc/modules); do modprobe "$module"; done
[ -d /sys/class/net/eth0 ]
# Each network namespace would have its own tunl0, sit0 and ip6tnl0.
echo 1 >/proc/sys/net/core/fb_tunnels_only_for_init_net

# The port comes up a moment after its driver.
until [ -c /dev/vport0p1 ]; do sleep 0.01; done
exec 3<>/dev/vport0p1
mkdir /run/lab
cd /run/lab
set +e

# A question: `ID LIMIT BYTES BYTES`, in seconds, and so many bytes of a shell
# script and of its standard input. The answer: `ID STATUS BYTES BYTES`, and so
# many bytes of standard output and standard error.
echo 0 0 0 0 >&3
while :; do
    # Nothing to read while the lab is not connected: it may come back.
    read -r id limit script input <&3 || { sleep 1; continue; }
    # head(1) reads ahead, but nothing comes before the answer.
    head -c $((script + input)) <&3 >question
    head -c "$script" question >script
    tail -c "$input" question >input
    # A shell that is not busybox's, which runs its own `ip` whatever the search
    # path says. timeout(1) and setsid(1) become the script's shell, whose number is then
    # that of the whole group.
    timeout -s KILL "$limit" setsid /usr/local/bin/sh script <input >out 2>err 3>&- &
    wait $!
    status=$?
    [ "$status" = 137 ] && kill -KILL -$! 2>/dev/null
    { echo "$id $status $(wc -c <out) $(wc -c <err)"; cat out err; } >&3
done
