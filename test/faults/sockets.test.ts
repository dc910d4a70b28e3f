import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer as createTcp } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { askAgent, LocalApi } from '../../src/agent/local-api.ts'
import { KeptSocket } from '../../src/agent/kept-socket.ts'
import { Lifetime } from '../../src/core/kit/lifetime.ts'
import { lacking } from '../../src/lab/namespace.ts'
import { freeBase, freePort } from '../../src/lab/system-tools.ts'
import { eventually, Machines } from '../cli/program.ts'
import { recordingLog } from '../resolver/world.ts'
import { EVERY_LISTENER } from './every-listener.ts'

/*
 * Every socket that the program listens at: its path is removed or taken, its port is taken, its address is not there, or goes and
 * comes back. Nothing that runs ends, and what can be had again is there again by itself.
 */

t.setTimeout(280_000)
const skip = (await lacking()) ?? false

for (const { name, protocol, taken, open } of EVERY_LISTENER) {
  t.test(`${name}: its port is taken at the start`, async (t) => {
    const { port, close } = await holder(protocol)
    const opened = open({ host: '127.0.0.1', port })
    if (taken === 'another port') {
      const listener = await opened
      t.not(listener.port, port)
      await listener.ask()
      await listener.close()
    } else {
      await t.rejects(opened, { code: 'LISTEN_FAILED', details: { address: new RegExp('127.0.0.1') } })
    }
    await close()
    const listener = await open({ host: '127.0.0.1', port }) // what failed has left nothing behind
    if (taken === 'refused') t.equal(listener.port, port)
    await listener.ask()
    await listener.close()
  })
}

t.test('every listener while its address is not there, goes, and comes back', { skip }, (t) => {
  const told = inNamespace('addresses-change.ts')
  const all = (value: unknown) => Object.fromEntries(EVERY_LISTENER.map(({ name }) => [name, value]))
  t.same(told['atStart'], all(['LISTEN_FAILED', 'EADDRNOTAVAIL']), 'at the start: an error that names the cause')
  t.same(told['before'], all(true))
  t.same(told['without'], all(false), 'its address is gone: nobody is answered, and nothing ends')
  t.same(told['again'], all(true), 'the address is back')
  t.same(told['down'], all(false))
  t.same(told['up'], all(true), 'the interface was down')
  t.end()
})

t.test('the routes of host mode go with `lo`, or are flushed: they are set again', { skip }, (t) => {
  const both = (text: string) => [text, text]
  t.match(inNamespace('routes-vanish.ts'), {
    before: both('hello'),
    quiet: [],
    down: both('nobody'),
    up: both('hello'),
    flushed: ['nobody', /hello|nobody/], // `ip route flush` without -6
    set: both('hello'),
    left: '',
  })
  t.end()
})

/** What somebody may do to the names of the local socket, and whether commands are answered before it looks again. */
const MISHAPS: Readonly<Record<string, (names: { own: string; serving: string; dir: string }) => void>> = {
  'the name that commands ask is removed': ({ serving }) => rmSync(serving),
  'its own name is removed': ({ own }) => rmSync(own),
  'both are removed': ({ own, serving }) => [own, serving].forEach((path) => rmSync(path)),
  'files are in their place': ({ own, serving }) => {
    for (const path of [own, serving]) {
      rmSync(path)
      writeFileSync(path, 'no socket')
    }
  },
  'the directory is made anew': ({ dir }) => {
    rmSync(dir, { recursive: true })
    mkdirSync(dir)
  },
}

for (const [mishap, happens] of Object.entries(MISHAPS)) {
  t.test(`the local socket: ${mishap}`, async (t) => {
    const { names, dir, socket, log } = await localSocket(t)
    await t.resolves(askAgent(names.serving, '/'))
    happens({ ...names, dir })
    await socket.keep()
    for (const path of Object.values(names)) {
      await t.resolves(askAgent(path, '/'))
      t.equal(statSync(path).mode & 0o777, 0o600)
    }
    await socket.keep()
    t.same(
      readdirSync(dir).toSorted(),
      Object.values(names)
        .map((path) => path.slice(dir.length + 1))
        .toSorted(),
    )
    t.notMatch(log.lines, [{ level: 'warn' }])
  })
}

t.test('the local socket: its directory is gone, later it is back', async (t) => {
  const { names, dir, socket, log } = await localSocket(t)
  rmSync(dir, { recursive: true })
  await socket.keep()
  await socket.keep()
  const warnings = log.lines.filter(({ level }) => level === 'warn')
  t.match(warnings, [{ sentence: 'local socket gone; commands cannot ask this process' }])
  t.equal(warnings.length, 1, 'said once')
  mkdirSync(dir)
  await socket.keep()
  await t.resolves(askAgent(names.serving, '/'))
  t.match(log.lines.at(-1), { level: 'info', sentence: 'local socket open again' })
})

t.test('the local socket: a directory is in its place', async (t) => {
  const { names, socket } = await localSocket(t)
  for (const path of Object.values(names)) {
    rmSync(path)
    mkdirSync(path)
  }
  await socket.keep()
  await t.rejects(askAgent(names.serving, '/'))
  for (const path of Object.values(names)) rmSync(path, { recursive: true })
  await socket.keep()
  await t.resolves(askAgent(names.serving, '/'))
  const dir = shortFolder(t)
  mkdirSync(join(dir, 'agent.sock'))
  await using api = await LocalApi.start({ dir })
  await t.rejects(api.claim(), { code: 'LISTEN_FAILED', details: { path: join(dir, 'agent.sock') } }, 'at the start')
})

t.test('the local socket of a predecessor leaves the name to its successor', async (t) => {
  const { names, dir, socket } = await localSocket(t)
  await using successor = await LocalApi.start({ dir })
  successor.serve({ '/': () => ({ who: 'successor' }) })
  await successor.claim('predecessor')
  await socket.keep()
  t.same(await askAgent(names.serving, '/'), { who: 'successor' })
  t.same(await askAgent(names.own, '/'), { who: 'here' })
  socket.leave()
  rmSync(names.serving)
  await socket.keep()
  await t.rejects(askAgent(names.serving, '/'), 'it is not taken back')
})

t.test('the sockets of a running agent are removed: commands find it again, and no second one starts', async (t) => {
  await using machines = await Machines.make()
  mkdirSync(machines.path('m'), { mode: 0o700 })
  const base = await freeBase(24_800)
  const where = ['--prefix', '127.96.0.0/12', '--upstream', '127.0.0.1:9', '--listen', `127.0.0.1:${base}`]
  await machines.start('m', 'up', '--name', 'n0', ...where)
  const agent = () => machines.json<{ agent?: { controlLink?: string } }>('m', 'status').then((it) => it.agent)
  const isUp = () =>
    agent().then(
      (it) => it?.controlLink === 'up',
      () => false,
    )
  await eventually(isUp, 'it serves', 40_000)
  const sockets = (folder: string) =>
    readdirSync(machines.path('m', folder))
      .filter((name) => name.endsWith('.sock'))
      .map((name) => machines.path('m', folder, name))
  const all = ['agent', 'root', 'cluster'].flatMap(sockets)
  t.ok(all.length >= 6, `${all.length} sockets`)
  for (const path of all) rmSync(path)
  await eventually(isUp, 'status answers again', 15_000)
  const roles = await machines.json<object>('m', 'status')
  t.match(Object.keys(roles), new Set(['agent', 'cluster', 'root']))
  rmSync(machines.path('m', 'agent', 'agent.sock'))
  const { code, stderr } = await machines.run('m', 'up', '--name', 'n0', ...where)
  t.equal(code, 1, 'a second one is refused, also while the name is gone')
  t.match(stderr, /already running/)
})

/** The path of a Unix socket has at most 107 bytes. */
function shortFolder(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-sockets-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** A local socket with a server behind it that says `here`, in a directory of its own. */
async function localSocket(t: Test) {
  const dir = shortFolder(t)
  const server: Server = createServer((_request, response) => response.end('{"who":"here"}'))
  const names = { own: join(dir, 'agent-0a0a0a.sock'), serving: join(dir, 'agent.sock') }
  const life = new Lifetime()
  t.teardown(() => life.close())
  const log = recordingLog()
  const socket = await KeptSocket.open(life, server, names, log)
  await socket.claim()
  return { names, dir, socket, log }
}

/** Another program that has a port of 127.0.0.1. */
async function holder(protocol: 'tcp' | 'udp'): Promise<{ port: number; close: () => Promise<unknown> }> {
  const port = await freePort() // not one that the kernel gives to somebody's connection once it is closed
  if (protocol === 'udp') {
    const socket = createSocket('udp4').bind(port, '127.0.0.1')
    await once(socket, 'listening')
    return { port, close: () => once(socket.close(), 'close') }
  }
  const server = createTcp().listen(port, '127.0.0.1')
  await once(server, 'listening')
  return { port, close: () => once(server.close(), 'close') }
}

/** What a program prints as JSON, run in a network namespace of its own. */
function inNamespace(program: string): Record<string, unknown> {
  const argv = ['-Urn', process.execPath, join(import.meta.dirname, program)]
  const { stdout, stderr } = spawnSync('unshare', argv, { encoding: 'utf8', timeout: 60_000 })
  if (stdout === '') throw new Error(stderr)
  return JSON.parse(stdout) as Record<string, unknown>
}
