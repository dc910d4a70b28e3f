import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { basename, join, resolve } from 'node:path'
import t, { type Test } from 'tap'
import { Memory } from '../../proxy/flow/memory.ts'
import { kernelMemory, type MemoryRoom } from '../../src/core/kit/memory-rooms.ts'
import { ownGroups } from '../../src/core/kit/cgroup.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { freeBase } from '../../src/lab/system-tools.ts'
import type { ResolveReport } from '../../src/client/reports.ts'
import { eventually, Machines } from '../cli/program.ts'
import { LAUNCHER } from '../support/launcher.ts'
import { keptLog } from '../proxy/world.ts'
import { sla } from '../walks/mesh.ts'

/*
 * Little memory: near the limit of the heap new flows are refused, open ones go on, and everything comes back.
 * An agent that the kernel or V8 ends all the same leaves its instances running, and its supervisor starts it again.
 */

t.setTimeout(280_000)
const MIB = 2 ** 20
let groupsMade = 0

t.test('new flows are refused while too little of the heap is left', (t) => {
  const clock = { now: 0 }
  let left = 0
  const log = keptLog()
  const reports = { log, metrics: openMetrics('agent') }
  const heap = () => ({ of: 'heap' as const, limit: 1_000, left })
  const memory = new Memory(reports, { heap, kernel: async () => ({ rooms: [], beside: 0 }), now: () => clock.now })
  const rows: Array<{ left: number; isScarce: boolean; why: string }> = [
    { left: 151, isScarce: false, why: 'more than 15 % is left' },
    { left: 149, isScarce: true, why: 'less is left' },
    { left: 180, isScarce: true, why: 'not enough to take flows again' },
    { left: 190, isScarce: false, why: 'enough again' },
    { left: 10, isScarce: true, why: 'nearly nothing is left' },
  ]
  for (const row of rows) {
    left = row.left
    clock.now += 100
    t.equal(memory.shortage !== undefined, row.isScarce, row.why)
  }
  left = 1_000
  t.ok(memory.shortage, 'not measured again within 100 ms')
  t.equal(log.lines.filter(({ level }) => level === 'warn').length, 2, 'said once for each shortage')
  t.end()
})

const SHORT = 'memory is nearly full; new flows are refused'
const ENOUGH = 'enough memory is free again'

t.test('new flows are refused near the limit of a control group, and of the machine', async (t) => {
  const clock = { now: 0 }
  const log = keptLog()
  const free = { of: 'heap' as const, limit: 1_000 * MIB, left: 900 * MIB }
  let rooms: Array<Omit<MemoryRoom, 'of'> & { of: MemoryRoom['of'] }> = []
  let beside = 100 * MIB
  let fails = false
  let collections = 0
  const memory = new Memory(
    { log, metrics: openMetrics('agent') },
    {
      heap: () => free,
      collect: async () => void (collections += 1),
      kernel: () => (fails ? Promise.reject(new Error('no descriptor')) : Promise.resolve({ rooms, beside })),
      now: () => clock.now,
    },
  )
  const shortage = async () => {
    clock.now += 500
    void memory.shortage // asks the kernel
    await new Promise((later) => setImmediate(later))
    return memory.shortage
  }
  t.equal(await shortage(), undefined)
  rooms = [{ of: 'control group', limit: 256 * MIB, left: 40 * MIB, path: '/g' }]
  t.equal(await shortage(), 'the memory of the control group of 256 MiB is nearly full')
  t.equal(collections, 1, 'V8 is told to give back what it does not need')
  t.match(memory.report, /40 MiB left of 256 MiB of control group; new flows are refused/)
  beside = 145 * MIB
  t.equal(
    await shortage(),
    undefined,
    'what the process has freed since is left to it, though the kernel does not have it back',
  )
  beside = 110 * MIB
  t.ok(await shortage(), 'in use again')
  beside = 145 * MIB
  rooms = [{ of: 'control group', limit: 256 * MIB, left: 30 * MIB }]
  t.ok(await shortage(), 'the kernel itself must see half of it')
  fails = true
  t.ok(await shortage(), 'what cannot be read stays as it was')
  fails = false
  beside = 100 * MIB
  rooms = [{ of: 'control group', limit: 256 * MIB, left: 70 * MIB }]
  t.ok(await shortage(), 'not enough to take flows again')
  rooms = [{ of: 'control group', limit: 256 * MIB, left: 90 * MIB }]
  t.equal(await shortage(), undefined)
  rooms = [{ of: 'control group', limit: 4_096 * MIB, left: 70 * MIB }]
  t.equal(await shortage(), undefined, 'of a large group, which instances may nearly fill, no more than 64 MiB')
  rooms = [{ of: 'machine', limit: 2_048 * MIB, left: 60 * MIB }]
  t.equal(await shortage(), 'the memory of the machine of 2048 MiB is nearly full')
  t.match(
    log.lines.map(({ sentence }) => sentence),
    [SHORT, ENOUGH, SHORT, ENOUGH, SHORT],
  )
})

t.test('what control groups leave is read as the kernel writes it, without what it can give up', async (t) => {
  const dir = t.testdir({
    v2: {
      'memory.max': `${256 * MIB}\n`,
      'memory.high': 'max\n',
      'memory.current': `${200 * MIB}\n`,
      'memory.swap.max': '0\n',
      'memory.swap.current': '0\n',
      'memory.stat': `anon 1\ninactive_file ${50 * MIB}\nactive_file ${30 * MIB}\nslab_reclaimable ${20 * MIB}\n`,
    },
    high: {
      'memory.max': 'max\n',
      'memory.high': `${128 * MIB}\n`,
      'memory.current': `${28 * MIB}\n`,
      'memory.stat': '',
    },
    unlimited: { 'memory.max': 'max\n', 'memory.high': 'max\n', 'memory.current': '1\n' },
    v1: {
      'memory.limit_in_bytes': `${100 * MIB}\n`,
      'memory.usage_in_bytes': `${90 * MIB}\n`,
      'memory.memsw.limit_in_bytes': `${100 * MIB}\n`,
      'memory.memsw.usage_in_bytes': `${90 * MIB}\n`,
      'memory.stat': `inactive_file 7\ntotal_inactive_file ${15 * MIB}\ntotal_active_file ${5 * MIB}\n`,
    },
  })
  const { rooms } = await kernelMemory(['v2', 'high', 'unlimited', 'v1'].map((name) => join(dir, name)))
  t.match(
    rooms
      .filter(({ of }) => of === 'control group')
      .map(({ path = '', limit, left }) => [basename(path), limit / MIB, left / MIB]),
    [
      ['v2', 256, 156],
      ['high', 128, 100],
      ['v1', 100, 30],
    ],
  )
  const machine = rooms.find(({ of }) => of === 'machine')
  t.ok(
    machine !== undefined && machine.left > 0 && machine.left <= machine.limit,
    'the machine has memory left, and not more than it has',
  )
})

t.test('what is left of the heap is counted as V8 counts', (t) => {
  const script = `
    import { heapRoom } from './src/core/kit/memory.ts'
    const { limit, left } = heapRoom()
    console.log(JSON.stringify({ limit, left }))`
  const rows = [
    { flags: ['--max-old-space-size=64'], limit: 64 },
    { flags: ['--max-old-space-size=256', '--max-semi-space-size=2'], limit: 256 },
  ]
  for (const { flags, limit } of rows) {
    const argv = [...flags, '--input-type=module', '-e', script]
    const { stdout } = spawnSync(process.execPath, argv, {
      encoding: 'utf8',
      cwd: resolve(import.meta.dirname, '../..'),
    })
    const room = JSON.parse(stdout) as { limit: number; left: number }
    t.equal(Math.round(room.limit / MIB), limit, flags.join(' '))
    t.ok(room.left > 0 && room.left < room.limit, `${room.left} of ${room.limit} bytes are left`)
  }
  t.end()
})

/** Where groups with a limit of memory can be made here; otherwise why not. */
const groups = memoryGroups()
const noGroups = typeof groups === 'string' && groups

t.test('a heap of 64 MiB filled with flows: some are refused, the agent lives, and takes flows again', async (t) => {
  await fills(t, { env: { NODE_OPTIONS: '--max-old-space-size=64' } })
})

t.test(
  'a control group filled with what flows hold outside the heap: some are refused, the agent lives, and takes flows again',
  { skip: noGroups },
  async (t) => {
    const group = limitedGroup(t)
    await fills(t, { group: group.path, env: { NODE_OPTIONS: '--max-old-space-size=2048' } }, () => {
      group.setLimit(group.used() + 100 * MIB)
      return true
    })
    t.equal(group.killed(), 0, 'the kernel has ended nothing in it')
  },
)

t.test(
  'the kernel ends an agent for want of memory: its instances live, and the next one takes them back',
  { skip: noGroups },
  async (t) => {
    await using machines = await Machines.make()
    const eater = machines.path('eat.mjs')
    const trigger = machines.path('trigger')
    writeFileSync(
      eater,
      `import { existsSync } from 'node:fs'; import { isMainThread } from 'node:worker_threads'
     const eaten = []
     if (isMainThread) setInterval(() => { while (existsSync(${JSON.stringify(trigger)})) eaten.push(Buffer.alloc(2 ** 20, 1)) }, 50).unref()`,
    )
    const group = limitedGroup(t)
    const first = await up(t, machines, { group: group.path, env: { NODE_OPTIONS: `--import ${eater}` } })
    const seconds = String(200_000 + process.pid)
    writeFileSync(
      machines.path('sleep.json'),
      JSON.stringify(
        sla([
          {
            microservice_name: 'sleep',
            microservice_namespace: 'prod',
            virtualization: 'process',
            port: '',
            code: '',
            cmd: ['sleep', seconds],
          },
        ]),
      ),
    )
    await machines.json('m', 'apply', '-f', machines.path('sleep.json'))
    const running = async () => {
      const rows = await machines.json<Array<{ state: string; pid?: number }>>('m', 'get', 'instances').catch(() => [])
      return rows.some(({ state }) => state === 'running')
    }
    await eventually(running, 'the instance runs')
    const [pid] = pidsOf(seconds)
    t.ok(pid, 'the instance has a process')
    group.setLimit(group.used() + 30 * MIB)
    writeFileSync(trigger, '')
    t.same(await first.exited, [null, 'SIGKILL'], 'the kernel ended it')
    t.same(pidsOf(seconds), [pid], 'its instance goes on')

    await up(t, machines, {}) // what a supervisor does
    await eventually(running, 'the instance is known again')
    t.same(pidsOf(seconds), [pid], 'it is the same process')
  },
)

interface Launch {
  env?: NodeJS.ProcessEnv
  /** The folder of the control group it starts in. */
  group?: string
}

interface Up {
  child: ChildProcess
  exited: Promise<[code: number | null, signal: string | null]>
}

const base = await freeBase(25_000)

/** `hedgerow up` of machine `m`; resolves when it serves. */
async function up(t: Test, machines: Machines, { env = {}, group = '' }: Launch): Promise<Up> {
  mkdirSync(machines.path('m'), { recursive: true, mode: 0o700 })
  const where = ['--upstream', '127.0.0.1:9', '--listen', `127.0.0.1:${base}`]
  const argv = [process.execPath, LAUNCHER, '--state', machines.path('m'), 'up', '--name', 'n0', ...where]
  const enter = '[ -z "$0" ] || echo $$ > "$0/cgroup.procs"; exec "$@"'
  const child = spawn('sh', ['-c', enter, group, ...argv], {
    stdio: 'ignore',
    env: { ...process.env, HEDGEROW_STATE: undefined, ...env },
  })
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    const firm = setTimeout(() => child.kill('SIGKILL'), 20_000)
    child.kill('SIGINT')
    await exited
    clearTimeout(firm)
  })
  const exited = once(child, 'exit') as Promise<[number | null, string | null]>
  const isUp = () =>
    machines.json<{ agent?: { controlLink?: string } }>('m', 'status').then(
      ({ agent }) => agent?.controlLink === 'up',
      () => false,
    )
  await eventually(isUp, 'it serves', 60_000)
  return { child, exited }
}

const UNREAD = Buffer.alloc(MIB)

/** Opens flows until some are refused. `before`: once it serves; true: flows bring bytes that nobody reads. */
async function fills(t: Test, launch: Launch, before = (): boolean => false): Promise<void> {
  await using machines = await Machines.make()
  const { child } = await up(t, machines, launch)
  const held = new Set<Socket>()
  const server = createServer((socket) => {
    held.add(socket.on('error', () => undefined))
    socket.write('x')
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  const address = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const service = {
    microservice_name: 'hold',
    microservice_namespace: 'prod',
    virtualization: 'external',
    code: address,
    port: '8080',
  }
  writeFileSync(machines.path('hold.json'), JSON.stringify(sla([service])))
  await machines.json('m', 'apply', '-f', machines.path('hold.json'))
  const name = 'shop.acme.hold.prod.any.rr.local'
  let host = ''
  await eventually(async () => {
    const report = await machines.json<ResolveReport>('m', 'resolve', name).catch(() => undefined)
    host = report?.ipv4 ?? ''
    return host !== '' && (await opens(host)).isServed
  }, 'flows are carried')

  const hasBytes = before()
  for (let rounds = hasBytes ? 2 : 1; rounds > 0; rounds -= 1)
    await fillOnce(t, { machines, child, host, held, hasBytes })
}

interface Filling {
  machines: Machines
  child: ChildProcess
  host: string
  held: Set<Socket>
  hasBytes: boolean
}

async function fillOnce(t: Test, { machines, child, host, held, hasBytes }: Filling): Promise<void> {
  const flows: Socket[] = []
  let refused = 0
  for (let round = 0; round < 40 && refused === 0; round += 1) {
    const opened = await Promise.all(Array.from({ length: 200 }, () => opens(host)))
    for (const { socket, isServed } of opened)
      if (isServed) flows.push(socket)
      else refused += 1
    if (hasBytes) for (const socket of flows.slice(-200)) socket.write(UNREAD)
  }
  t.comment(`${flows.length} flows were open when ${refused} were refused`)
  t.ok(refused > 0, 'some are refused')
  t.equal(child.exitCode, null)
  t.equal(child.signalCode, null, 'the agent lives')
  if (!hasBytes) await isSaidByCheck(t, machines) // else what V8 gives back may have made room again
  const open = flows.filter((socket) => !socket.destroyed)
  t.equal(open.length, flows.length, 'open flows go on')
  for (const socket of [...flows, ...held]) socket.destroy()
  const isTaken = async () => {
    const { socket, isServed } = await opens(host)
    socket.destroy()
    return isServed
  }
  await eventually(isTaken, 'flows are taken again', 60_000)
}

async function isSaidByCheck(t: Test, machines: Machines): Promise<void> {
  const { stdout } = await machines.run('m', 'check', '-o', 'json')
  const checks = JSON.parse(stdout) as Array<{ check: string; ok: boolean; finding: string }>
  t.match(
    checks.find(({ check }) => check === 'memory'),
    { ok: false, finding: /new flows are refused/ },
  )
}

/** A flow; served when the other end has said something. */
async function opens(host: string): Promise<{ socket: Socket; isServed: boolean }> {
  const socket = connect({ host, port: 8_080 })
  socket.on('error', () => undefined)
  const isServed = await new Promise<boolean>((done) => {
    socket.once('data', () => done(true))
    socket.once('close', () => done(false))
  })
  return { socket, isServed }
}

/** The processes whose last argument this is. */
function pidsOf(argument: string): number[] {
  return readdirSync('/proc')
    .filter((name) => {
      if (!/^\d+$/.test(name)) return false
      try {
        return readFileSync(`/proc/${name}/cmdline`, 'utf8').endsWith(`sleep\0${argument}\0`)
      } catch {
        return false
      }
    })
    .map(Number)
}

function memoryGroups(): { dir: string; limit: string; used: string } | string {
  if (process.getuid?.() !== 0) return 'needs root, to make a control group'
  for (const own of ownGroups()) {
    const v1 = existsSync(join(own, 'memory.limit_in_bytes'))
    const parent = v1 ? own : join(own, '..')
    const dir = join(parent, `hedgerow-test-${process.pid}`)
    try {
      mkdirSync(dir)
      const limit = join(dir, v1 ? 'memory.limit_in_bytes' : 'memory.max')
      const isLimited = existsSync(limit)
      rmdirSync(dir)
      if (isLimited) return { dir, limit: basename(limit), used: v1 ? 'memory.usage_in_bytes' : 'memory.current' }
    } catch {
      // this hierarchy cannot be written
    }
  }
  return 'no control groups with a limit of memory can be made here'
}

/** A group whose memory can be limited; it is removed after the test. */
function limitedGroup(t: Test) {
  if (typeof groups === 'string') throw new Error(groups)
  const { dir, limit, used } = groups
  const path = `${dir}-${(groupsMade += 1)}`
  mkdirSync(path)
  t.teardown(async () => {
    for (let tries = 0; tries < 100 && existsSync(path); tries += 1) {
      try {
        rmdirSync(path)
      } catch {
        await new Promise((later) => setTimeout(later, 100))
      }
    }
  })
  const usedNow = () => Number(readFileSync(join(path, used), 'latin1'))
  const setLimit = (bytes: number) => writeFileSync(join(path, limit), String(bytes))
  /** Processes that the kernel ended at the limit. */
  const killed = () => {
    const files = ['memory.oom_control', 'memory.events']
      .map((name) => join(path, name))
      .filter((file) => existsSync(file))
    return Number(/^oom_kill (\d+)$/m.exec(readFileSync(files[0] ?? '', 'latin1'))?.[1])
  }
  return { path, used: usedNow, setLimit, killed }
}
