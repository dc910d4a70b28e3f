import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { setTimeout } from 'node:timers/promises'
import { MeshError } from '../core/errors.ts'
import { Lifetime } from '../core/kit/lifetime.ts'
import { readConditions } from './lab-file.ts'
import type { Host } from './host.ts'
import type { Lab } from './lab.ts'
import { printConditions } from './link/conditions.ts'
import type { LinkConditions } from './link/conditions.ts'
import type { Link } from './link/link.ts'
import { startOf, sweep } from './namespace.ts'

/*
 * How other programs on this machine (`hedgerow lab exec`, `link`, `map`, `down`) reach a lab that is up: one line of JSON to
 * a Unix socket, one line back.
 */
const FOLDER = '/run/hedgerow-lab'

export type Ask =
  | { ask: 'map' }
  | { ask: 'cut' | 'heal'; of: string }
  | { ask: 'change'; of: string; conditions: unknown }
  | { ask: 'down' }
export type Answer = { ok: true; map?: LabMap; keeper?: Keeper } | { ok: false; reason: string }

/** The process that keeps a lab up, and when it began. */
export interface Keeper {
  pid: number
  start: string
}

/** What there is, for people and programs. */
export interface LabMap {
  links: string
  backend: string
  hosts: HostMap[]
  sites: { name: string; nat: string; outside: string; link: string; proxy?: string }[]
}

export interface HostMap {
  name: string
  site: string
  address: string
  address6?: string
  namespace: string
  container?: string
  link: string
  /** What goes before a command, on this machine, so that it runs there. */
  enter: string[]
}

export function socketOf(name: string): string {
  return `${FOLDER}/${name}.sock`
}

/** Answers until the life ends; `down` is called when somebody asks for it. @throws Error when a lab of that name is up */
export async function openControlSocket(name: string, lab: Lab, down: () => void): Promise<AsyncDisposable> {
  const path = socketOf(name)
  await claim(name)
  return await Lifetime.open(async (life) => {
    mkdirSync(FOLDER, { recursive: true, mode: 0o700 })
    rmSync(path, { force: true })
    const server = createServer((socket) => {
      const lines = createInterface({ input: socket }).on('error', () => socket.destroy())
      lines.once('line', (line) => {
        void answer(line, lab, down).then((answer) => socket.end(`${JSON.stringify(answer)}\n`))
      })
    })
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve))
    life.defer(() => {
      server.close()
      rmSync(path, { force: true })
    })
    return life
  })
}

const REMEDY = (name: string) => `Start it with \`hedgerow lab up -f FILE --name ${name}\`.`

/** @throws Error with the lab's reason, or MeshError because no such lab is up */
export async function ask(name: string, question: Ask): Promise<Answer & { ok: true }> {
  const said = await new Promise<string>((resolve, reject) => {
    const socket = connect(socketOf(name), () => {
      socket.write(`${JSON.stringify(question)}\n`)
      createInterface({ input: socket }).on('line', resolve).on('error', reject)
    })
    socket.once('error', () => reject(new MeshError('NOT_RUNNING', { lab: name, remedy: REMEDY(name) })))
    socket.once('close', () => reject(new Error('the lab went away')))
  })
  const answer = JSON.parse(said) as Answer
  if (!answer.ok) throw new Error(answer.reason)
  return answer
}

/**
 * Takes a lab down and waits until nothing is left; also what a lab left whose process was killed. Returns whether there was one.
 * @throws Error when it does not end in time
 */
export async function takeDown(name: string, limitMs = 60_000): Promise<boolean> {
  const isCrashed = existsSync(socketOf(name))
  const answer = await ask(name, { ask: 'down' }).catch(() => undefined)
  if (answer?.keeper === undefined) {
    rmSync(socketOf(name), { force: true })
    return sweep().length > 0 || isCrashed
  }
  const { pid, start } = answer.keeper
  for (let waitedMs = 0; startOf(pid) === start; waitedMs += POLL_MS) {
    if (waitedMs > limitMs) throw new Error(`the lab ${name} is not down after ${limitMs / 1_000} s (process ${pid})`)
    await setTimeout(POLL_MS)
  }
  return true
}

const POLL_MS = 50

/** @throws Error when a lab of that name is up */
export async function claim(name: string): Promise<void> {
  const isUp = await ask(name, { ask: 'map' }).then(
    () => true,
    () => false,
  )
  if (isUp) throw new Error(`a lab called ${name} is up; choose another --name, or take it down`)
}

async function answer(line: string, lab: Lab, down: () => void): Promise<Answer> {
  try {
    const question = JSON.parse(line) as Ask
    switch (question.ask) {
      case 'map':
        return { ok: true, map: mapOf(lab) }
      case 'cut':
      case 'heal':
        await linkOf(lab, question.of)[question.ask]()
        return { ok: true }
      case 'change':
        await change(lab, question.of, readConditions(question.conditions))
        return { ok: true }
      case 'down':
        down()
        return { ok: true, keeper: { pid: process.pid, start: startOf(process.pid) ?? '' } }
      default:
        question satisfies never
        throw new Error('not a question')
    }
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : String(error) }
  }
}

/** A link that was built without conditions gets them where the kernel has netem only. */
async function change(lab: Lab, of: string, conditions: LinkConditions): Promise<void> {
  const link = linkOf(lab, of)
  try {
    await link.change(conditions)
  } catch (cause) {
    if (link.kind !== 'plain') throw cause
    const line = `conditions: { ${of}: {} }`
    throw new Error(
      `the link of ${of} was built without conditions, and this kernel cannot add them later (it has no netem): ` +
        `write \`${line}\` into the file and start the lab again`,
      { cause },
    )
  }
}

function linkOf(lab: Lab, name: string): Link {
  const found = lab.sites.find((site) => site.name === name) ?? lab.hosts.find((host) => host.name === name)
  if (found === undefined) throw new Error(`no host or site ${name} in this lab`)
  return found
}

export function mapOf(lab: Lab): LabMap {
  const siteOf = (host: Host) => lab.sites.find(({ hosts }) => hosts.includes(host))?.name ?? 'internet'
  return {
    links: lab.links,
    backend: lab.backend,
    hosts: lab.hosts.map((host) => ({
      name: host.name,
      site: siteOf(host),
      address: host.address,
      ...(host.address6 === undefined ? {} : { address6: host.address6 }),
      namespace: host.namespace,
      ...(host.container === undefined ? {} : { container: host.container }),
      link: lineOf(host),
      enter: host.argv([]),
    })),
    sites: lab.sites.map((site) => ({
      name: site.name,
      nat: site.nat,
      outside: site.router.address,
      link: lineOf(site),
      ...(site.proxy === undefined ? {} : { proxy: site.proxy }),
    })),
  }
}

function lineOf({ kind, conditions }: Link): string {
  return conditions === undefined ? kind : `${kind}: ${printConditions(conditions)}`
}
