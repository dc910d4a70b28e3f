/*
 * What a shell runs when Tab is pressed: it asks `hedgerow __complete`, which prints a candidate a line, with a tab and what it
 * means behind it, and `:files` where files may stand as well.
 */

export const SHELLS = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof SHELLS)[number]

const BASH = `# bash completion for hedgerow; the package bash-completion is not needed
_hedgerow() {
  local line word cur=\${COMP_WORDS[COMP_CWORD]}
  local -a words=("\${COMP_WORDS[@]:1:COMP_CWORD}")
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ $line == :files ]]; then
      compopt -o filenames 2>/dev/null
      while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
    else
      COMPREPLY+=("\${line%%$'\\t'*}")
    fi
  done < <(hedgerow __complete -- "\${words[@]}" 2>/dev/null)
}
complete -F _hedgerow hedgerow
`

const ZSH = `#compdef hedgerow
# zsh completion for hedgerow
_hedgerow() {
  local line files=
  local -a found
  for line in "\${(@f)$(hedgerow __complete -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    if [[ $line == :files ]]; then files=1
    elif [[ $line == *$'\\t'?* ]]; then found+=("\${\${line%%$'\\t'*}//:/\\\\:}:\${line#*$'\\t'}")
    elif [[ -n $line ]]; then found+=("\${\${line%%$'\\t'*}//:/\\\\:}")
    fi
  done
  (( $#found )) && _describe hedgerow found
  [[ -z $files ]] || _files
}
if [[ $funcstack[1] == _hedgerow ]]; then _hedgerow; else compdef _hedgerow hedgerow; fi
`

const FISH = `# fish completion for hedgerow
function __hedgerow_complete
  set -l words (commandline -opc) (commandline -ct)
  for line in (hedgerow __complete -- $words[2..-1] 2>/dev/null)
    if test "$line" = ":files"
      __fish_complete_path (commandline -ct)
    else
      echo $line
    end
  end
end
complete -c hedgerow -f -a '(__hedgerow_complete)'
`

export const SCRIPTS: Readonly<Record<Shell, string>> = { bash: BASH, zsh: ZSH, fish: FISH }
