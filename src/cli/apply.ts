import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { MeshError } from '../core/errors.ts'
import { rootClient, type Context } from './context.ts'
import { lineOf, printJson, printTable } from './output.ts'

interface Applied {
  services: Array<{ id: string; change: string }>
  warnings: Array<{ path: string; problem: string; remedy?: string }>
}

export function applyCommand(program: Command, context: () => Context): void {
  program
    .command('apply')
    .description('make the mesh run what an SLA document says: create what is new, change what differs')
    .requiredOption('-f, --file <file>', 'the document, YAML or JSON; - for standard input')
    .option('--prune', 'remove services of these apps that the document no longer names')
    .action(async ({ file, prune }: { file: string; prune?: boolean }) => {
      const { readSlaText } = await import('../orchestrator/sla/read.ts') // the parser is large, and only this needs it
      const document = readSlaText(read(file), file === '-' ? 'standard input' : file)
      const applied = await rootClient(context()).call<Applied>('POST', `/apps${prune ? '?prune=true' : ''}`, document)
      if (context().format === 'json') return printJson(applied)
      for (const warning of applied.warnings) console.error(`warning: ${lineOf(warning)}`)
      printTable(
        ['service', 'change'],
        applied.services.map(({ id, change }) => [id, change]),
      )
    })
}

function read(file: string): string {
  try {
    return readFileSync(file === '-' ? 0 : file, 'utf8')
  } catch (cause) {
    throw new MeshError('USAGE', { file, remedy: 'Name a file that can be read, or - for standard input.' }, { cause })
  }
}
