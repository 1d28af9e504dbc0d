#!/bin/sh
# deb: prerm, rpm: %preun. Words: deb gives "remove" or "upgrade", rpm the number of releases that are left.
set -e

command -v systemctl >/dev/null || exit 0
case "${1:-}" in
remove | 0)
    [ ! -d /run/systemd/system ] || systemctl stop outhaul-agent.service || :
    ;;
esac
# deb keeps what the operator said until it is purged.
[ "${1:-}" != 0 ] || systemctl disable --quiet outhaul-agent.service || :
