import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { isMeshError, MeshError } from '../core/errors.ts'
import { printable } from '../core/kit/printable.ts'
import { rootClient, type Context } from './context.ts'
import { lineOf, isData, printData, printTable } from './output.ts'
import { progress, note } from './terminal.ts'
import { linesOf, unplaceableOf } from './placement.ts'
import { gapLines, printPreview } from './preview.ts'

export function applyCommand(program: Command, context: () => Context): void {
  program
    .command('apply')
    .description('deploy what an SLA document describes: create new services, update changed ones')
    .requiredOption('-f, --file <file>', 'the document, YAML or JSON; - for standard input')
    .option('--app <name.namespace>', 'the app, for a document that has only its microservices')
    .option('--prune', 'also remove services of these apps that the document no longer names')
    .option('--dry-run', 'change nothing: show what would be added, replaced, changed in place and removed, and where')
    .action(async ({ file, app, prune, dryRun }: ApplyOptions) => {
      const { readSlaText } = await import('../orchestrator/sla/read.ts') // the parser is large, and only this needs it
      const text = readSlaText(read(file), file === '-' ? 'standard input' : file)
      const document = app === undefined ? text : withApp(text, app)
      const root = rootClient(context())
      const post = (query: { dryRun?: boolean }) =>
        root
          .ask('POST', '/v1/apps', { query: { ...(prune ? { prune } : {}), ...query }, body: document })
          .catch((error: unknown) => Promise.reject(withHint(error, document)))
      if (dryRun) return printPreview(await post({ dryRun: true }), context())
      const applied = await post({})
      const changed = applied.services.filter(({ change }) => change !== 'unchanged' && change !== 'removed')
      if (!isData(context())) progress('It is being placed …')
      const unplaceable = await unplaceableOf(
        root,
        changed.map(({ id }) => id),
      )
      if (isData(context())) return printData({ ...applied, unplaceable }, context())
      for (const warning of applied.warnings) note(`warning: ${lineOf(warning)}`)
      printTable(
        ['service', 'change'],
        applied.services.map(({ id, change }) => [id, change]),
      )
      for (const line of gapLines(applied.services)) note(printable(line))
      if (unplaceable.length === 0) return
      note('Not placed for now; they are placed as soon as a node can take them:')
      for (const line of linesOf(unplaceable)) note(`  ${printable(line)}`)
    })
}

interface ApplyOptions {
  file: string
  app?: string
  prune?: boolean
  dryRun?: boolean
}

/** The services of one app, as `{ "microservices": […] }`, made a whole document. */
function withApp(document: unknown, app: string): unknown {
  const [name, namespace, ...rest] = app.split('.')
  if (!name || !namespace || rest.length > 0)
    throw new MeshError('USAGE', {
      option: '--app',
      given: app,
      remedy: 'Expected NAME.NAMESPACE, for example shop.acme.',
    })
  if (!isOnlyServices(document))
    throw new MeshError('USAGE', {
      reason: '--app is for a document that has only `microservices`',
      remedy: 'Leave out --app: this document names its apps itself.',
    })
  const { application_name = name, application_namespace = namespace } = document as {
    application_name?: unknown
    application_namespace?: unknown
  }
  if (application_name !== name || application_namespace !== namespace)
    throw new MeshError('USAGE', {
      reason: `the document is for the app ${String(application_name)}.${String(application_namespace)}, not for ${app}`,
      remedy: 'Leave out --app, or name that app.',
    })
  return { ...document, application_name, application_namespace }
}

/** A document with only `microservices`, as Oakestra’s dashboard takes it into an existing app, lacks the name of one. */
function withHint(error: unknown, document: unknown): unknown {
  if (!isMeshError(error, 'SLA_INVALID') || !isOnlyServices(document) || 'application_name' in document) return error
  return new MeshError('SLA_INVALID', { ...error.details, remedy: 'Name the app with --app NAME.NAMESPACE.' })
}

function isOnlyServices(document: unknown): document is { microservices: unknown } {
  return (
    typeof document === 'object' && document !== null && 'microservices' in document && !('applications' in document)
  )
}

function read(file: string): string {
  let bytes: Buffer
  try {
    bytes = readFileSync(file === '-' ? 0 : file)
  } catch (cause) {
    throw new MeshError('USAGE', { file, remedy: 'Name a file that you can read, or - for standard input.' }, { cause })
  }
  try {
    return UTF_8.decode(bytes)
  } catch {
    const remedy = 'Save it as UTF-8; UTF-16 and Latin-1 are not read.'
    throw new MeshError('USAGE', { file, reason: 'it is not UTF-8 text', remedy })
  }
}

/** Refuses what is not UTF-8, and takes a byte order mark away. */
const UTF_8 = new TextDecoder('utf-8', { fatal: true })
