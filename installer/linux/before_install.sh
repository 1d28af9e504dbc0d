#!/bin/sh
# deb: preinst, rpm: %pre. The account is there before files are given to it; no program runs while it is replaced.
# Words: deb gives "install" or "upgrade", rpm the number of releases that will then be here.
set -e

getent group outhaul-agent >/dev/null || groupadd --system outhaul-agent
getent passwd outhaul-agent >/dev/null ||
    useradd --system --gid outhaul-agent --home-dir /var/lib/outhaul-agent --no-create-home \
        --shell /usr/sbin/nologin --comment "Outhaul agent" outhaul-agent

case "${1:-}" in
upgrade | [2-9]*)
    if [ -d /run/systemd/system ] && systemctl is-active --quiet outhaul-agent.service; then
        touch /run/outhaul-agent.start-again
        systemctl stop outhaul-agent.service
    fi
    ;;
esac
