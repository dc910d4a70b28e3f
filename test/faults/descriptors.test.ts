import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { interfacesHere } from '../../src/core/kit/interfaces.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import { eventually, Machines } from '../cli/program.ts'
import { LAUNCHER } from '../support/launcher.ts'

/*
 * A process with few descriptors whose every listener is flooded at once: it lives, the silent ones make room for those that speak,
 * and all descriptors come back.
 */

const FILES = 256
const SILENT = 300
t.setTimeout(280_000)

/** Where a process listens for TCP over IPv4 (proc(5), net/tcp: state 0A). */
function listenersOf(pid: number): Array<{ host: string; port: number }> {
  const folder = `/proc/${pid}/fd`
  const own = new Set(readdirSync(folder).map((fd) => /^socket:\[(\d+)\]$/.exec(link(`${folder}/${fd}`))?.[1]))
  const rows = readFileSync(`/proc/${pid}/net/tcp`, 'latin1').trim().split('\n').slice(1)
  return rows.flatMap((row) => {
    const [, local = '', , state, , , , , , inode] = row.trim().split(/\s+/)
    if (state !== '0A' || !own.has(inode)) return []
    const [address = '', port = ''] = local.split(':')
    return [{ host: [...Buffer.from(address, 'hex')].toReversed().join('.'), port: Number.parseInt(port, 16) }]
  })
}

/** Resolves when a connection is made, refused or closed. */
function settled(socket: Socket): Promise<void> {
  return new Promise((done) => {
    if (!socket.connecting) return done()
    for (const event of ['connect', 'close']) socket.once(event, () => done())
  })
}

function link(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return '' // closed meanwhile
  }
}

t.test('while no descriptor is left, the interfaces are those listed last', (t) => {
  const listed = interfacesHere(() => ({ lo: [] }))
  const none = () => {
    throw new Error('uv_interface_addresses returned EMFILE')
  }
  t.same(interfacesHere(none), listed)
  interfacesHere()
  t.end()
})

t.test('every listener of `up` flooded at once, with 256 descriptors', async (t) => {
  await using machines = await Machines.make()
  mkdirSync(machines.path('m'), { mode: 0o700 })
  const base = await freeBase(24_600)
  const where = ['--upstream', '127.0.0.1:9', '--listen', `127.0.0.1:${base}`]
  const argv = [LAUNCHER, '--state', machines.path('m'), 'up', '--name', 'n0', ...where]
  const child = spawn('sh', ['-c', `ulimit -n ${FILES}; exec "$0" "$@"`, process.execPath, ...argv], {
    stdio: 'ignore',
    env: { ...process.env, HEDGEROW_STATE: undefined },
  })
  t.teardown(() => child.kill('SIGKILL'))
  const status = () => machines.json<{ agent?: { controlLink?: string } }>('m', 'status')
  const isUp = () =>
    status().then(
      ({ agent }) => agent?.controlLink === 'up',
      () => false,
    )
  await eventually(isUp, 'it serves', 40_000)
  const open = () => readdirSync(`/proc/${child.pid}/fd`).length
  const before = open()

  const listeners = listenersOf(child.pid ?? 0)
  t.ok(listeners.length >= 10, `${listeners.length} listeners`)
  const silent: Socket[] = []
  for (const { host, port } of listeners)
    for (let i = 0; i < SILENT; i += 1) silent.push(connect({ host, port }).on('error', () => undefined))
  await Promise.all(silent.map(settled))
  await new Promise((later) => setTimeout(later, 12_000)) // longer than each timer of the agent that reads the system
  t.equal(child.exitCode, null, 'it lives')
  t.equal(await isUp(), true, 'commands are answered, and its control link is up')
  const [health] = listeners.filter(({ port }) => port === 7_473)
  t.equal((await fetch(`http://${health?.host}:7473/healthz`)).status, 200)

  for (const socket of silent) socket.destroy()
  await eventually(() => Promise.resolve(open() <= before + 4), 'every descriptor comes back', 30_000)
  t.equal(await isUp(), true)
  child.kill('SIGTERM')
  t.same(await once(child, 'exit'), [0, null])
})
