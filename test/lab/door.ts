import { mkdirSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { createInterface } from 'node:readline'
import { Lifetime } from '../../src/kit/lifetime.ts'
import { readConditions } from './file.ts'
import type { Host } from './host.ts'
import type { Lab } from './lab.ts'
import { printConditions } from './link/conditions.ts'
import type { Link } from './link/link.ts'

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
export type Answer = { ok: true; map?: LabMap } | { ok: false; reason: string }

/** What there is, for people and programs. */
export interface LabMap {
  links: string
  hosts: { name: string; site: string; address: string; address6?: string; namespace: string; link: string }[]
  sites: { name: string; nat: string; outside: string; link: string; proxy?: string }[]
}

export function socketOf(name: string): string {
  return `${FOLDER}/${name}.sock`
}

/** Answers until the life ends; `down` is called when somebody asks for it. @throws Error when a lab of that name is up */
export async function openDoor(name: string, lab: Lab, down: () => void): Promise<AsyncDisposable> {
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

/** @throws Error with the lab's reason, or because no such lab is up */
export async function ask(name: string, question: Ask): Promise<Answer & { ok: true }> {
  const said = await new Promise<string>((resolve, reject) => {
    const socket = connect(socketOf(name), () => {
      socket.write(`${JSON.stringify(question)}\n`)
      createInterface({ input: socket }).on('line', resolve).on('error', reject)
    })
    socket.once('error', () => reject(new Error(`no lab called ${name} is up (${socketOf(name)})`)))
    socket.once('close', () => reject(new Error('the lab went away')))
  })
  const answer = JSON.parse(said) as Answer
  if (!answer.ok) throw new Error(answer.reason)
  return answer
}

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
        await linkOf(lab, question.of).change(readConditions(question.conditions))
        return { ok: true }
      case 'down':
        down()
        return { ok: true }
      default:
        question satisfies never
        throw new Error('not a question')
    }
  } catch (error) {
    return { ok: false, reason: error instanceof Error ? error.message : String(error) }
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
    hosts: lab.hosts.map((host) => ({
      name: host.name,
      site: siteOf(host),
      address: host.address,
      ...(host.address6 === undefined ? {} : { address6: host.address6 }),
      namespace: host.namespace,
      link: lineOf(host),
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
