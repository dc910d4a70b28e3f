import { execFile } from 'node:child_process'
import { lstatSync, readdirSync, readFileSync } from 'node:fs'
import { arch, availableParallelism, loadavg, platform, release, totalmem, uptime } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { meshChecks } from '../../client/mesh-checks.ts'
import { explain } from '../../core/errors.ts'
import { rootClient, type Context } from '../context.ts'
import { agent } from '../roles-here.ts'
import { askRole, hasCredential, rolesHere } from '../roles-here.ts'
import { request } from '../../core/kit/node-http.ts'

/** One file of the report, and how its text comes about. What fails is a text, too. */
export interface Part {
  name: string
  read: () => Promise<string>
}

const run = promisify(execFile)
/** Each part may take this long. */
const LIMIT_MS = 15_000
const MOST_BYTES = 4 * 1_048_576

/** What a report holds, where it is there. */
export function partsOf(here: Context): Part[] {
  const roles = rolesHere(here)
  const root = hasCredential(here)
    ? [
        ...MESH_LISTS.map((list) => listPart(here, list)),
        ...MESH_FACTS.map((fact) => factPart(here, fact)),
        checksPart(here),
      ]
    : []
  return [
    { name: 'machine.json', read: async () => json(machineOf(here)) },
    { name: 'state-files.txt', read: async () => listing(here.state, '').join('\n') },
    ...roles.flatMap((role) => [
      { name: `${role}/status.json`, read: async () => json(await askRole(here, role, '/status')) },
      { name: `${role}/check.json`, read: async () => json(await askRole(here, role, '/check')) },
      { name: `${role}/metrics.txt`, read: () => metricsOf(here, role) },
      { name: `${role}/journal.txt`, read: () => commandOf('journalctl', ['-u', `hedgerow-${role}`, ...JOURNAL]) },
      { name: `${role}/config.yaml`, read: async () => readFileSync(`/etc/hedgerow/${role}.yaml`, 'utf8') },
    ]),
    ...(roles.includes('agent') ? AGENT_ROUTES.map((route) => agentPart(here, route)) : []),
    ...root,
    { name: 'network/addresses.txt', read: () => commandOf('ip', ['address']) },
    { name: 'network/routes.txt', read: () => commandOf('ip', ['route', 'show', 'table', 'all']) },
    { name: 'network/listeners.txt', read: () => commandOf('ss', ['-tulnp']) },
    { name: 'network/rules.txt', read: () => commandOf('nft', ['list', 'ruleset']) },
  ]
}

const JOURNAL = ['--no-pager', '-n', '5000', '-o', 'short-iso-precise']
const AGENT_ROUTES = ['peers', 'flows', 'netcheck', 'relays']
const MESH_LISTS = ['clusters', 'nodes', 'relays', 'services', 'instances', 'events'] as const
const MESH_FACTS = ['status', 'authority'] as const

function agentPart(here: Context, route: string): Part {
  const query: Record<string, string> = route === 'flows' ? { recent: 'true' } : {}
  return { name: `agent/${route}.json`, read: async () => json(await agent(here, `/${route}`, query)) }
}

/** Of a list the first thousand; of events the newest. */
function listPart(here: Context, list: (typeof MESH_LISTS)[number]): Part {
  const read = async () => json(await rootClient(here).all(`/v1/${list}`, {}, { most: 1_000 }))
  return { name: `mesh/${list}.json`, read }
}

function factPart(here: Context, fact: (typeof MESH_FACTS)[number]): Part {
  return { name: `mesh/${fact}.json`, read: async () => json(await rootClient(here).ask('GET', `/v1/${fact}`, {})) }
}

function checksPart(here: Context): Part {
  return { name: 'mesh/check.json', read: async () => json(await meshChecks(rootClient(here))) }
}

/** What a part has to say, within its time and size. */
export async function textOf({ read }: Part): Promise<string> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`not there: no answer within ${LIMIT_MS / 1_000} s\n`), LIMIT_MS)
  })
  try {
    const text = await Promise.race([read(), late])
    return text.length <= MOST_BYTES ? text : `${text.slice(-MOST_BYTES)}\n(only the end of it)\n`
  } catch (error) {
    return `not there: ${explain(error)}\n`
  } finally {
    clearTimeout(timer)
  }
}

function machineOf({ version, state }: Context) {
  return {
    hedgerow: version,
    node: process.versions.node,
    program: process.argv[1],
    system: `${platform()} ${release()} ${arch()}`,
    distribution: lineOf('/etc/os-release', /^PRETTY_NAME="?(.*?)"?$/m),
    cpus: availableParallelism(),
    memoryMb: Math.round(totalmem() / 1_048_576),
    load: loadavg(),
    upSeconds: Math.round(uptime()),
    at: new Date().toISOString(),
    user: process.getuid?.(),
    state,
  }
}

function lineOf(path: string, pattern: RegExp): string | undefined {
  try {
    return pattern.exec(readFileSync(path, 'utf8'))?.[1]
  } catch {
    return undefined
  }
}

/** Names, sizes, modes, owners and times; nothing of what is inside. */
function listing(state: string, folder: string): string[] {
  return readdirSync(join(state, folder), { withFileTypes: true }).flatMap((entry) => {
    const name = folder === '' ? entry.name : `${folder}/${entry.name}`
    const { mode, uid, gid, size, mtime } = lstatSync(join(state, name))
    const line = `${mode.toString(8).padStart(6, '0')} ${uid}:${gid} ${String(size).padStart(9)} ${mtime.toISOString()} ${name}`
    return entry.isDirectory() ? [line, ...listing(state, name)] : [line]
  })
}

/** From the address that the role names in its status. */
async function metricsOf(here: Context, role: Parameters<typeof askRole>[1]): Promise<string> {
  const status = (await askRole(here, role, '/status')) as { health?: string; ops?: string }
  const address = status.health ?? status.ops
  if (address === undefined) return 'not there: the role does not say where its metrics are\n'
  return new Promise((resolve, reject) => {
    const asking = request(new URL('/metrics', address), { timeout: LIMIT_MS }, (response) => {
      let text = ''
      response.setEncoding('utf8')
      response.on('data', (some: string) => (text += some))
      response.on('end', () => resolve(text))
      response.on('error', reject)
    })
    asking.on('error', reject)
    asking.end()
  })
}

async function commandOf(file: string, args: readonly string[]): Promise<string> {
  const { stdout, stderr } = await run(file, args, { timeout: LIMIT_MS, maxBuffer: 4 * MOST_BYTES })
  return `${stdout}${stderr}`
}

function json(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`
}
