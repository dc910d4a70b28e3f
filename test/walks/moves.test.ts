import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { DatabaseSync } from 'node:sqlite'
import t, { type Test } from 'tap'
import { eventually } from '../cli/program.ts'
import { Calls } from './calls.ts'
import { sla } from './mesh.ts'
import { SeparateProcesses } from './separate-processes.ts'

/*
 * An instance is migrated, restarted and drained away, within its cluster and to another one, while a program on another node calls it
 * by its name every 5 ms. What is asserted is that no call fails, and who answered. Then all of it is deleted, and nothing is left.
 */

t.setTimeout(300_000) // a process for each command

/** Of this test alone: its processes are looked for on the whole machine. */
const APP = `moves${process.pid}`
const SERVICE = `${APP}.acme.web.prod`
const SERVING =
  "require('http').createServer((q,r)=>r.end('v1 '+process.pid)).listen(process.env.PORT,process.env.HOST)"

interface Row {
  id: string
  state: string
  node: string
}

t.test('what is migrated, restarted or drained away answers every call', async (t) => {
  await using mesh = await SeparateProcesses.start(['n0', 'n1', 'n2'], 'agent: { drainSeconds: 1 }\n')
  const { machines } = mesh
  const json = <T>(...args: string[]) => machines.json<T>('root', ...args)
  const run = (...args: string[]) => machines.run('root', ...args)
  const web = { microservice_name: 'web', microservice_namespace: 'prod', drain_seconds: 2, port: '8080' }
  const apply = async (...services: Record<string, unknown>[]) => {
    writeFileSync(machines.path('web.json'), JSON.stringify(sla(services, APP)))
    await json('apply', '-f', machines.path('web.json'))
  }
  const placeOf = async (id = `${SERVICE}.0`) => (await json<Row[]>('get', 'instances', id))[0]?.node ?? ''

  // the caller's node runs nothing
  t.match(await run('cordon', 'n2', '--reason', 'calls only'), { code: 0, stdout: 'edge/n2 is cordoned\n' })
  t.match(await run('get', 'nodes', 'edge/n2'), { stdout: /alive, cordoned .*cordoned \d+ s ago: calls only/ })
  await apply({ ...web, cmd: [process.execPath, '-e', SERVING] })
  await eventually(async () => (await json<Row[]>('get', 'instances'))[0]?.state === 'running', 'it runs', 40_000)
  await using calls = await Calls.to(mesh, { from: 'n2', name: `${SERVICE}.0.pinned.local`, first: 'v1' })

  const isAnotherThan = (before: string, what: string) => eventually(async () => calls.last !== before, what, 40_000)
  const hasEnded = (answer: string) =>
    eventually(async () => !existsSync(`/proc/${answer.split(' ')[1]}`), 'the one before has ended', 40_000)
  const step = async (what: string, ...args: string[]) => {
    const before = calls.last
    const done = await run(...args)
    t.equal(done.code, 0, `${what}: ${done.stdout}${done.stderr}`)
    await isAnotherThan(before, `${what}: another process answers`)
    await hasEnded(before)
    return done
  }

  const first = await placeOf()
  await step('migrate', 'migrate', SERVICE)
  t.equal(await placeOf(), other(first), 'to the only other node that takes instances')
  await step('migrate --to', 'migrate', `${SERVICE}.0`, '--to', first.slice('edge/'.length))
  t.equal(await placeOf(), first)
  t.match(await run('migrate', SERVICE, '--to', first), { code: 1, stderr: /it is on edge\/n\d already/ })
  t.match(await run('migrate', SERVICE, '--to', 'n2'), { code: 1, stderr: /1 cordoned/ })

  await step('restart of an instance', 'restart', `${SERVICE}.0`)
  await step('restart of a service', 'restart', SERVICE)
  t.equal(await placeOf(), first, 'where it was')

  const { stderr } = await step('drain', 'drain', first, '--reason', 'a new disk')
  t.match(stderr, /edge\/n\d is cordoned: 1 to move[^]*web.prod.0 is on edge\/n\d/, 'with its progress')
  t.equal(await placeOf(), other(first))
  t.match(await run('get', 'nodes', first), { stdout: /alive, drained .*: a new disk/ })

  await calls.areMany()
  t.same(calls.failures, [], `within a cluster, of ${calls.count} calls none failed`)

  await mesh.addCluster('far', 'n3')
  await step('migrate to another cluster', 'migrate', SERVICE, '--to', 'far/n3')
  t.equal(await placeOf(), 'far/n3')
  const away = await step('drain into another cluster', 'drain', 'far/n3')
  t.match(away.stderr, /web\.prod\.0 is on edge\/n\d/)
  t.equal(await placeOf(), other(first))
  t.match(await run('events', `${SERVICE}.0`), { stdout: /moved .* far\/n3 +user +from edge\/n\d; it was migrated/ })
  const { failures } = await calls.stop()
  t.same(failures, [], 'nor to another cluster and back')

  await cannotMove(t, { mesh, from: other(first), web, apply })
  await leavesNothing(t, { mesh, places: [first, other(first)] })
})

/** The only node that is left is drained: nothing can leave it, and each says why. */
async function cannotMove(
  t: Test,
  {
    mesh,
    from,
    web,
    apply,
  }: {
    mesh: SeparateProcesses
    from: string
    web: Record<string, unknown>
    apply: (...services: Record<string, unknown>[]) => Promise<void>
  },
): Promise<void> {
  const { machines } = mesh
  const run = (...args: string[]) => machines.run('root', ...args)
  const cmd = [process.execPath, '-e', SERVING]
  await apply(
    { ...web, cmd },
    { ...web, microservice_name: 'db', runtime: 'external', code: '127.0.0.1:9', port: '5432' },
  )
  await eventually(
    async () =>
      (await machines.json<Row[]>('root', 'get', 'instances')).filter(({ node }) => node === from).length === 2,
    'all are on the one node',
    40_000,
  )
  const left = await run('drain', from, '--timeout', '3')
  t.match(left, { code: 4, stderr: /edge\/n\d is not drained/ })
  t.match(left.stderr, /web\.prod\.0: 3 nodes: 3 cordoned/, 'nothing else takes it')
  t.match(left.stderr, /db\.prod\.0: it is external, at 127\.0\.0\.1:9 of this node/)

  t.match(await run('uncordon', other(from)), { code: 0 })
  const again = await run('drain', from, '--timeout', '20')
  t.match(again, { code: 4, stderr: /db\.prod\.0: it is external/ }, 'what is of this machine stays')
  t.notMatch(again.stderr, /web\.prod\.0: /, 'the other is away')
  const rows = await machines.json<Row[]>('root', 'get', 'instances')
  t.same(
    rows.map(({ id, node, state }) => [id, node, id.includes('.db.') ? '' : state]),
    [
      [`${APP}.acme.db.prod.0`, from, ''],
      [`${APP}.acme.web.prod.0`, other(from), 'running'],
    ],
  )
}

function other(node: string): string {
  return node === 'edge/n0' ? 'edge/n1' : 'edge/n0'
}

/** Processes, addresses, rows and files. */
async function leavesNothing(
  t: Test,
  { mesh, places }: { mesh: SeparateProcesses; places: readonly string[] },
): Promise<void> {
  const { machines } = mesh
  const { ipv4 } = await machines.json<{ ipv4: string }>('n2', 'resolve', `${SERVICE}.any.rr.local`)
  const marked = () => processesOf(`${APP}.acme.`)
  t.ok(marked().length >= 1, 'a program runs')
  t.equal((await machines.run('root', 'delete', 'app', `${APP}.acme`)).code, 0)
  const isGone = async () => (await machines.json<Row[]>('root', 'get', 'instances')).length === 0
  await eventually(isGone, 'no instance is listed', 40_000)
  await eventually(async () => marked().length === 0, 'no process is left', 40_000)
  const files = () =>
    places.flatMap((place) => {
      const name = place.slice('edge/'.length)
      return readdirSync(`${machines.path(name)}/agent/instances`).filter((file) => file.startsWith(`${APP}.acme.`))
    })
  await eventually(async () => files().length === 0, 'no record or pipe of an instance is left', 40_000)
  await eventually(async () => !(await isServed(ipv4)), 'its address is served no more', 40_000)
  await mesh.killRoot() // a store belongs to one process
  await mesh.killCluster()
  const rows = [
    ...rowsAbout(`${machines.path('root')}/root/root.db`),
    ...rowsAbout(`${machines.path('cluster')}/cluster/cluster.db`),
  ]
  t.same(rows, [], 'nothing is stored of it, but addresses that rest and what was logged')
}

/**
 * Of an address that was freed its owner is known for an hour, so that nobody else gets what callers may have cached. Nodes that were
 * away still have to learn that the service is gone (`changes`). Decisions are deleted a moment later, or at the next start. Who deleted it
 * stays in the audit log.
 */
const RESTS = new Set(['vips', 'events', 'changes', 'decisions', 'audit'])

function rowsAbout(path: string): string[] {
  using database = new DatabaseSync(path)
  const rows = database.prepare('SELECT collection, key, body FROM documents').all() as {
    collection: string
    key: string
    body: string
  }[]
  return rows
    .filter(({ collection, key, body }) => !RESTS.has(collection) && `${key} ${body}`.includes(`${APP}.acme`))
    .map(({ collection, key }) => `${collection} ${key}`)
}

/** Running processes of an instance whose id begins so. */
function processesOf(prefix: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(`HEDGEROW_INSTANCE=${prefix}`)
    } catch {
      return false // it has just ended, or is another user's
    }
  })
}

function isServed(host: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port: 8_080 })
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('close', () => socket.destroy()).setTimeout(2_000, () => socket.destroy())
    socket.once('connect', () => socket.destroy())
  })
}
