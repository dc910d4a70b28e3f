import type { Command } from 'commander'
import type { Context } from './context.ts'
import { isData, printData } from './output.ts'
import { say } from './terminal.ts'

export function versionCommand(program: Command, context: () => Context): void {
  program
    .command('version')
    .description('print the version')
    .action(async () => {
      const here = context()
      if (isData(here)) return printData({ version: here.version }, here)
      say(here.version)
    })
}
