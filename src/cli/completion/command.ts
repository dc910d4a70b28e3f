import type { Command } from 'commander'
import { MeshError } from '../../core/errors.ts'
import { printable } from '../../core/kit/printable.ts'
import { rootClient, type Context } from '../context.ts'
import { present } from '../role-options.ts'
import { namesOf as listed } from '../names.ts'
import { hasCredential } from '../roles-here.ts'
import { completionOf, type NamedKind } from './candidates.ts'
import { SCRIPTS, SHELLS } from './scripts.ts'

const EXAMPLE = `
For this shell, and for every one from now on:

  bash   source <(hedgerow completion bash)
         hedgerow completion bash > ~/.local/share/bash-completion/completions/hedgerow
  zsh    hedgerow completion zsh > "\${fpath[1]}/_hedgerow"
  fish   hedgerow completion fish > ~/.config/fish/completions/hedgerow.fish

The packages install them for every user.`

export function completionCommand(program: Command, context: () => Context): void {
  program
    .command('completion')
    .description('print the script with which a shell completes commands, options and names of the mesh')
    .argument('<shell>', SHELLS.join(', '))
    .addHelpText('after', EXAMPLE)
    .action((given: string) => {
      const shell = SHELLS.find((one) => one === given)
      if (shell !== undefined) return void process.stdout.write(SCRIPTS[shell])
      throw new MeshError('USAGE', {
        reason: `there is no completion for "${given}"`,
        remedy: `Use one of: ${SHELLS.join(', ')}.`,
      })
    })
  program
    .command('__complete', { hidden: true })
    .passThroughOptions()
    .argument('[words...]')
    .action(async (words: readonly string[]) => {
      for (const [key, value] of Object.entries(globalsIn(words))) program.setOptionValue(key, value)
      const { candidates, files, names } = completionOf(program, words)
      const prefix = words.at(-1) ?? ''
      const lines = candidates.map(({ word, about }) => `${word}\t${printable(about)}\n`)
      const known = await Promise.all(names.map((kind) => namesOf(kind, context())))
      const fitting = [...new Set(known.flat())].filter((name) => name.startsWith(prefix) && /^[\w./-]+$/.test(name))
      process.stdout.write([...lines, ...fitting.map((name) => `${name}\t\n`), ...(files ? [':files\n'] : [])].join(''))
    })
}

/** Where the mesh is found, as it stands on the line that is being completed. */
function globalsIn(words: readonly string[]): Record<string, string> {
  const given = (option: string) => {
    const at = words.indexOf(option)
    return at === -1 ? words.find((word) => word.startsWith(`${option}=`))?.slice(option.length + 1) : words[at + 1]
  }
  return present({ state: given('--state'), credential: given('--credential') })
}

/** People wait with a finger on the key. */
const LIMIT_MS = 1_000

/** Those that the root lists; none where it does not answer at once, or may not be asked. */
async function namesOf(kind: NamedKind, context: Context): Promise<string[]> {
  if (!hasCredential(context)) return []
  try {
    return await listed(rootClient(context), kind, undefined, AbortSignal.timeout(LIMIT_MS))
  } catch {
    return []
  }
}
