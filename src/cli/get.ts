import type { Command } from 'commander'
import type { RootClient } from '../client/root-client.ts'
import { printable } from '../core/kit/printable.ts'
import { nearest } from '../core/kit/suggest.ts'
import { rootClient, type Context } from './context.ts'
import { agent } from './roles-here.ts'
import { kindOf } from './kinds.ts'
import type { ListedKind } from './names.ts'
import { type Cell, tableText } from './output.ts'
import { showOrWatch, type View, WATCH } from './watch.ts'

type Row = Record<string, unknown>

type Column = readonly [head: string, cell: (row: Row) => unknown]

/** For each kind the columns of the table, and the field of the API's objects that fills them. */
const KINDS: Record<ListedKind, readonly Column[]> = {
  apps: [
    ['app', (row) => row['id']],
    ['services', (row) => row['services']],
    ['instances', (row) => row['instances']],
    ['running', (row) => row['running']],
    ['description', (row) => row['description']],
  ],
  services: [
    ['service', (row) => row['id']],
    [
      'ports',
      (row) =>
        (row['ports'] as Array<{ port: number; protocol: string }>)
          .map(({ port, protocol }) => `${port}/${protocol}`)
          .join(' '),
    ],
    ['runtime', (row) => row['runtime']],
    ['wanted', (row) => row['replicas']],
    ['running', (row) => row['running']],
    ['generation', (row) => row['generation']],
    ['detail', (row) => withNextRun(withRetry(row['detail'], row), row)],
  ],
  instances: [
    ['instance', (row) => row['id']],
    ['state', (row) => row['outcome'] ?? row['state']],
    ['node', (row) => row['node'] ?? row['cluster']],
    ['restarts', (row) => row['restarts']],
    ['cpu', (row) => usageOf(row)?.cpu.toFixed(2)],
    ['memory', (row) => memoryText(usageOf(row))],
    ['detail', (row) => withPressure(detailOf(row), usageOf(row))],
  ],
  runs: [
    ['instance', (row) => row['id']],
    ['run', (row) => row['number']],
    ['by', (row) => row['by']],
    ['due', (row) => timeOf(row['due'])],
    ['began', (row) => timeOf(row['at'])],
    ['ended', (row) => timeOf(row['endedAt'])],
    ['outcome', (row) => row['state']],
    ['tries', (row) => row['tries']],
    ['node', (row) => row['node']],
    ['detail', (row) => row['detail']],
  ],
  nodes: [
    ['node', (row) => row['id']],
    ['condition', conditionOf],
    ['instances', (row) => row['instances']],
    ['runtimes', (row) => (row['runtimes'] as string[]).join(' ')],
    ['free MB', (row) => row['freeMemoryMb']],
    ['free cpus', (row) => row['freeVcpus']],
    ['addresses', (row) => (row['addresses'] as string[]).join(' ')],
    ['detail', nodeDetailOf],
  ],
  clusters: [
    ['cluster', (row) => row['name']],
    ['condition', conditionOf],
    ['nodes', (row) => row['nodes']],
    ['instances', (row) => row['instances']],
  ],
  relays: [
    ['relay', (row) => row['id']],
    ['kind', (row) => row['kind']],
    ['condition', (row) => row['condition']],
    ['nodes', (row) => row['nodes']],
    ['rtt ms', (row) => (row['rttMs'] as number | undefined)?.toFixed(1)],
    ['version', (row) => row['version']],
    ['address', (row) => row['url']],
  ],
  links: [
    ['from', (row) => row['from']],
    ['to', (row) => row['to']],
    ['path', (row) => row['path']],
    ['rtt ms', (row) => (row['rttMs'] as number | undefined)?.toFixed(2)],
    ['bytes in', (row) => row['bytesIn']],
    ['bytes out', (row) => row['bytesOut']],
  ],
  volumes: [
    ['volume', (row) => row['id']],
    ['size', (row) => sizeText(row['bytes'])],
    ['in use by', (row) => (row['inUseBy'] as string[]).join(' ')],
  ],
}

/** With `-o wide` these as well. */
const WIDE: typeof KINDS = {
  apps: [['customer', (row) => row['customer']]],
  services: [
    ['strategy', (row) => row['strategy']],
    ['allow', (row) => (Array.isArray(row['allow']) ? row['allow'].join(' ') : row['allow'])],
    ['schedule', (row) => row['schedule']],
  ],
  instances: [
    ['cluster', (row) => row['cluster']],
    ['generation', (row) => row['generation']],
    ['epoch', (row) => row['epoch']],
    ['host ports', (row) => (Array.isArray(row['hostPorts']) ? row['hostPorts'].join(' ') : undefined)],
  ],
  runs: [],
  nodes: [
    ['version', (row) => row['version']],
    ['arch', (row) => row['arch']],
    ['area', (row) => row['area']],
    ['labels', (row) => pairs(row['labels'])],
    ['certificate until', (row) => timeOf(row['certificateUntil'])],
  ],
  clusters: [
    ['version', (row) => row['version']],
    ['address', (row) => row['url']],
    ['certificate until', (row) => timeOf(row['certificateUntil'])],
  ],
  relays: [['certificate until', (row) => timeOf(row['certificateUntil'])]],
  links: [['relay', (row) => row['relay']]],
  volumes: [],
}

function pairs(labels: unknown): string | undefined {
  const all = Object.entries((labels ?? {}) as Record<string, unknown>)
  return all.length === 0 ? undefined : all.map(([key, value]) => `${key}=${String(value)}`).join(' ')
}

/** With what limits it, and the age of what is known where the cluster is away: `away, cordoned, as of 3 min ago`. */
function conditionOf({ condition, asOf, duplicateAt, cordon, dampedMs, instances }: Row): string {
  return [
    String(condition),
    ...(cordon === undefined ? [] : [cordonedOr(cordon, instances)]),
    ...(dampedMs === undefined ? [] : ['flapping']),
    ...(typeof duplicateAt === 'number' ? [`used twice ${ageOf(Date.now() - duplicateAt)} ago`] : []),
    ...(typeof asOf === 'number' ? [`as of ${ageOf(Date.now() - asOf)} ago`] : []),
  ].join(', ')
}

function cordonedOr(cordon: unknown, instances: unknown): string {
  if ((cordon as { drain?: unknown }).drain === undefined) return 'cordoned'
  return instances === 0 ? 'drained' : 'draining'
}

/** Why the node is given nothing new, and until when. */
function nodeDetailOf({ cordon, dampedMs, linksLost }: Row): string | undefined {
  const { at, reason } = (cordon ?? {}) as { at?: number; reason?: string }
  const details = [
    ...(at === undefined ? [] : [`cordoned ${ageOf(Date.now() - at)} ago${reason === undefined ? '' : `: ${reason}`}`]),
    ...(typeof dampedMs === 'number'
      ? [
          `its link went down ${String(linksLost)} times lately: for ${ageOf(dampedMs)} it gets only what no other takes`,
        ]
      : []),
  ]
  return details.length === 0 ? undefined : details.join('; ')
}

/** An instance that was placed elsewhere while its node was away may run on both. */
function detailOf(row: Row): string | undefined {
  const { mayAlsoRunOn } = row
  const detail = withNextRun(withRetry(row['detail'], row), row)
  if (!Array.isArray(mayAlsoRunOn)) return detail
  const twice = `may run twice: also on ${mayAlsoRunOn.join(', ')}, which is lost`
  return typeof detail === 'string' ? `${twice}; ${detail}` : twice
}

/** Of an instance that runs on a node that answers. */
interface Usage {
  cpu: number
  memoryMb: number
  memoryLimitMb?: number
  throttled: number
  oomKills: number
}

function usageOf({ usage }: Row): Usage | undefined {
  return usage as Usage | undefined
}

/** `45 of 64 MB` */
function memoryText(usage: Usage | undefined): string | undefined {
  if (usage === undefined) return undefined
  const { memoryMb, memoryLimitMb } = usage
  const used = memoryMb < 10 ? memoryMb.toFixed(1) : memoryMb.toFixed(0)
  return memoryLimitMb === undefined ? `${used} MB` : `${used} of ${memoryLimitMb} MB`
}

/** A smaller share of the time is usual for a program with bursts. */
const MUCH_THROTTLED = 0.05

/** That it would use more than its document permits. */
function withPressure(detail: string | undefined, usage: Usage | undefined): string | undefined {
  if (usage === undefined) return detail
  const { throttled, oomKills } = usage
  const parts = [
    ...(detail === undefined ? [] : [detail]),
    ...(throttled < MUCH_THROTTLED
      ? []
      : [`waits for its limit of vcpus ${Math.round(throttled * 100)} % of the time`]),
    ...(oomKills === 0 ? [] : [`processes ended for want of memory: ${oomKills}`]),
  ]
  return parts.length === 0 ? undefined : parts.join('; ')
}

/** What ends again and again waits longer each time: `exited with code 1; next start in 12 s`. */
function withRetry(detail: unknown, { retryAt }: Row): string | undefined {
  const text = typeof detail === 'string' ? detail : undefined
  if (typeof retryAt !== 'number') return text
  const next = retryAt > Date.now() ? `next start in ${ageOf(retryAt - Date.now())}` : 'next start now'
  return text === undefined ? next : `${text}; ${next}`
}

/** Of a job with a schedule: `succeeded; next run in 3 h`. */
function withNextRun(text: string | undefined, { nextRunAt }: Row): string | undefined {
  if (typeof nextRunAt !== 'number') return text
  const next = nextRunAt > Date.now() ? `next run in ${ageOf(nextRunAt - Date.now())}` : 'next run now'
  return text === undefined ? next : `${text}; ${next}`
}

/** In UTC, as schedules are. */
function timeOf(ms: unknown): string | undefined {
  return typeof ms === 'number' ? new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z') : undefined
}

function ageOf(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1_000))
  if (seconds < 120) return `${seconds} s`
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`
  return seconds < 172_800 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} days`
}

export function getCommand(program: Command, context: () => Context): void {
  program
    .command('get')
    .description(`list ${Object.keys(KINDS).join(', ')}; runs are those of jobs, the last 20 of each instance`)
    .argument('<kind>', Object.keys(KINDS).join(', '))
    .argument('[filter]', 'only those whose name begins with this')
    .option(...WATCH)
    .action((given: string, filter: string | undefined, { watch }: { watch?: boolean }) => {
      const kind = kindOf(given, Object.keys(KINDS) as ListedKind[])
      return showOrWatch(() => listOf(kind, filter, context()), context(), watch)
    })
}

async function listOf(kind: ListedKind, filter: string | undefined, context: Context): Promise<View> {
  const columns = [...KINDS[kind], ...(context.format === 'wide' ? WIDE[kind] : [])]
  const root = rootClient(context)
  const listed = rowsOf(root, kind, filter)
  const rows = kind === 'relays' ? await measured(listed, context) : await listed
  const text = tableText(
    columns.map(([head]) => head),
    rows.map((row) => columns.map(([, cell]) => cell(row) as Cell)),
  )
  if (rows.length > 0) return { value: rows, text }
  const all = filter === undefined ? rows : await rowsOf(root, kind)
  return { value: rows, text, note: nothingListed(kind, filter, all.flatMap(namesOf)) }
}

function rowsOf(root: RootClient, kind: ListedKind, filter = ''): Promise<Row[]> {
  const query = { ...(filter === '' ? {} : { name: filter }), ...(kind === 'instances' ? { usage: true } : {}) }
  return root.all(`/v1/${kind}`, { query })
}

/** What a filter is compared with: of links the nodes at both ends. */
export function namesOf({ id, name, from, to }: Row): string[] {
  return typeof from === 'string' && typeof to === 'string' ? [from, to] : [String(id ?? name)]
}

/** `-`: it has not been measured yet. */
function sizeText(bytes: unknown): string | undefined {
  if (typeof bytes !== 'number') return undefined
  if (bytes < 1_048_576) return `${Math.ceil(bytes / 1_024)} KB`
  return bytes < 1_073_741_824 ? `${(bytes / 1_048_576).toFixed(1)} MB` : `${(bytes / 1_073_741_824).toFixed(1)} GB`
}

/** Why the list is empty. */
export function nothingListed(kind: string, filter: string | undefined, names: readonly string[]): string {
  if (names.length === 0) return `There are no ${kind}.`
  const meant = nearest(filter ?? '', names)
  const said = `None of the ${kind} has a name that begins with "${printable(filter ?? '')}".`
  return meant === undefined ? said : `${said} Did you mean ${printable(meant)}?`
}

/** With the round-trip time to each relay that the agent here has measured. */
async function measured(listed: Promise<Row[]>, context: Context): Promise<Row[]> {
  const [rows, distances] = await Promise.all([listed, agent(context, '/relays').catch(() => [])])
  const rtts = new Map(
    (distances as Array<{ relay: string; rttMs?: number }>).map(({ relay, rttMs }) => [relay, rttMs]),
  )
  return rows.map((row) => {
    const rttMs = rtts.get(String(row['url']))
    return rttMs === undefined ? row : { ...row, rttMs }
  })
}
