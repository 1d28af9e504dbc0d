#!/bin/sh
# deb: postrm, rpm: %postun. Certificate, secrets, journal and the operator's file stay, unless deb says "purge".
set -e

# The way back of upgrades is of no use without the program.
case "${1:-}" in
remove | purge | 0) rm -rf /var/lib/outhaul-agent-packages ;;
esac
if [ "${1:-}" = purge ]; then
    rm -rf /etc/outhaul-agent /var/lib/outhaul-agent /var/log/outhaul-agent
    rm -rf /etc/systemd/system/outhaul-agent.service.d /etc/systemd/system/*.wants/outhaul-agent.service
    userdel outhaul-agent >/dev/null 2>&1 || :
    groupdel outhaul-agent >/dev/null 2>&1 || :
fi

[ ! -d /run/systemd/system ] || systemctl daemon-reload || :
