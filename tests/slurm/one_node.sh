#!/bin/sh
# A Slurm of one node for the slow tests, as root and without systemd:
#   apt-get install slurmctld slurmd slurm-client munge && sh tests/slurm/one_node.sh
set -eu
state=${1:-/tmp/slurm}
host=$(hostname -s)

if sinfo >/dev/null 2>&1; then
    echo "a controller answers already"
    exit 0
fi
install -d -o munge -g munge -m 755 /run/munge
install -d -o munge -g munge -m 700 /var/log/munge /etc/munge
install -d -o munge -g munge -m 711 /var/lib/munge
if [ ! -f /etc/munge/munge.key ]; then
    dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 2>/dev/null
    chown munge:munge /etc/munge/munge.key
    chmod 400 /etc/munge/munge.key
fi
munge -n >/dev/null 2>&1 || su -s /bin/sh munge -c /usr/sbin/munged
mkdir -p "$state/controller" "$state/node"
cat >/etc/slurm/slurm.conf <<SETTINGS
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$state/controller
SlurmdSpoolDir=$state/node
SlurmctldPidFile=$state/controller.pid
SlurmdPidFile=$state/node.pid
SlurmctldLogFile=$state/controller.log
SlurmdLogFile=$state/node.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
SETTINGS
slurmctld
for _ in $(seq 20); do
    sinfo >/dev/null 2>&1 && break
    sleep 0.5
done
slurmd
for _ in $(seq 20); do
    [ "$(sinfo --noheader --format %T)" = idle ] && break
    sleep 0.5
done
sinfo
