import type { Command } from 'commander'
import type { Context } from './context.ts'
import { printJson } from './output.ts'

export function versionCommand(program: Command, context: () => Context): void {
  program
    .command('version')
    .description('print the version')
    .action(() => {
      const { format, version } = context()
      if (format === 'json') printJson({ version })
      else console.log(version)
    })
}
