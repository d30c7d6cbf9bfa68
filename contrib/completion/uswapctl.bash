# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion of uswapctl(1)

_uswapctl() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb='' i
	local verbs='status stats list evict restore disable enable drain verify run check gc version help'
	local opts='--json= --no-legend -n --bytes -b --address= --help -h --version'
	local -a words=()

	for ((i = 1; i < COMP_CWORD; i++)); do
		case " $verbs " in
		*" ${COMP_WORDS[i]} "*)
			verb=${COMP_WORDS[i]}
			break
			;;
		esac
	done
	case $prev in
	--json | =)
		mapfile -t COMPREPLY < <(compgen -W 'pretty short off' -- "${cur#=}")
		return
		;;
	esac
	case $verb in run | gc | version | help) opts=${opts#--json= } ;; esac
	case $verb in
	'')
		mapfile -t words < <(compgen -W "$verbs $opts" -- "$cur")
		;;
	evict | restore | disable | enable | stats)
		[ "$verb" = stats ] || opts="--all $opts"
		mapfile -t words < <(compgen -W "$opts $(uswapctl list -n 2>/dev/null |
			awk '{ print $1 }')" -- "$cur")
		;;
	drain)
		mapfile -t words < <(compgen -W "--leave $opts" -- "$cur")
		;;
	gc)
		mapfile -t words < <(compgen -W "--host= $opts" -- "$cur")
		;;
	run)
		for ((i++; i < COMP_CWORD; i++)); do
			[[ ${COMP_WORDS[i]} == -* && ${COMP_WORDS[i]} != -- ]] || break
		done
		if [[ $cur == -* && $i -ge $COMP_CWORD ]]; then
			mapfile -t words < <(compgen -W "--limit= --allow-unmanaged $opts" -- "$cur")
		else
			mapfile -t words < <(compgen -c -- "$cur")
		fi
		;;
	*)
		mapfile -t words < <(compgen -W "$opts" -- "$cur")
		;;
	esac
	COMPREPLY=("${words[@]}")
	if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then
		compopt -o nospace
	fi
}
complete -F _uswapctl uswapctl
