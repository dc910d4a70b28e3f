import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Cluster } from '../../src/orchestrator/cluster/cluster.ts'
import { PeerLinks, type ManagedLink } from '../../src/orchestrator/link/peer-links.ts'
import { FakeNode, mesh, sla } from './mesh.ts'
import { until } from '../support/until.ts'

t.setTimeout(280_000) // a busy machine takes several times as long
/* Two processes with copies of one state directory. */

t.test('a second process of a node is refused on both sides, and runs nothing', async (t) => {
  await using world = await mesh()
  const first = await world.node('n1', { process: 'first' })
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  const [assignment] = first.has.values()
  if (assignment === undefined) throw new Error('nothing runs')
  const second = new FakeNode('edge/n1', { identity: first.identity, url: world.cluster().url }, { process: 'second' })
  t.teardown(() => second.stop())
  second.has.set(assignment.instance, assignment) // as its copy of the state has it
  await until(() => second.uplink.refusal !== undefined, 'refused')
  t.match(second.uplink.refusal, { code: 'DUPLICATE_IDENTITY' })
  t.same([...second.has], [], 'it stops what it runs')
  t.ok(first.uplink.isUp, 'the first keeps its link')
  t.equal(first.has.size, 2)
  const [row] = await world.api.call<{ duplicateAt: number; certificateUntil: number }[]>('GET', '/nodes')
  t.ok(Math.abs(Date.now() - (row?.duplicateAt ?? 0)) < 60_000, 'get nodes shows it')
  const hoursLeft = ((row?.certificateUntil ?? 0) - Date.now()) / 3_600_000
  t.ok(hoursLeft > 23 && hoursLeft < 25, `its certificate, issued at the cluster, is valid for ${hoursLeft} hours`)
  await first.stop()
  second.uplink.networkChanged(() => true) // it would try again by itself, after a longer wait
  await until(() => second.uplink.isUp, 'the second is let in when the first has ended')
})

t.test('a new link of the same process, or of one that hands over, replaces the older one at once', async (t) => {
  await using world = await mesh()
  const first = await world.node('n1', { process: 'same' })
  const again = new FakeNode('edge/n1', { identity: first.identity, url: world.cluster().url }, { process: 'same' })
  await until(() => again.uplink.isUp, 'the same process')
  await first.stop()
  again.uplink.leave()
  const successor = new FakeNode('edge/n1', { identity: first.identity, url: world.cluster().url }, { process: 'next' })
  await until(() => successor.uplink.isUp, 'its successor')
  await until(() => !again.uplink.isUp, 'whose link it takes over')
  t.equal(successor.uplink.refusal, undefined)
  await again.stop()
  await successor.stop()
})

t.test('a node that hands over while it says hello is not in the way of its successor', async (t) => {
  await using world = await mesh()
  const first = await world.node('n1', { process: 'first' })
  const joined = { identity: first.identity, url: world.cluster().url }
  await world.api.call('POST', '/apps', sla({ microservice_name: 'cart', replicas: 2 }))
  await world.running(2)
  await world.stopCluster() // as while `up` is replaced
  await until(() => !first.uplink.isUp, 'its link is down')
  const leaving = Promise.withResolvers<void>()
  Object.defineProperty(first, 'coordinate', {
    get: () => {
      first.uplink.leave() // its facts are asked for, for hello
      leaving.resolve()
    },
  })
  await world.startCluster()
  await leaving.promise
  const successor = new FakeNode('edge/n1', joined, { process: 'next' })
  t.teardown(() => successor.stop())
  for (const [instance, assignment] of first.has) successor.has.set(instance, assignment)
  await until(() => successor.uplink.isUp || successor.uplink.refusal !== undefined, 'an answer')
  t.equal(successor.uplink.refusal, undefined)
  t.equal(successor.has.size, 2, 'its instances run on')
  t.notOk(first.uplink.isUp, 'the process before it has no link')
})

t.test('a second process of a cluster is refused by the root', async (t) => {
  await using world = await mesh({ cluster: { process: 'first' } })
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-copy-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  cpSync(join(world.dir, 'edge', 'identity'), join(dir, 'identity'), { recursive: true })
  await using copy = await Cluster.start(
    { dir, listen: { host: '127.0.0.1', port: 0 }, rootUrl: world.root.url, process: 'second' },
    silentLog,
    openMetrics('cluster'),
  )
  await until(() => copy.refusal !== undefined, 'refused')
  t.match(copy.refusal, { code: 'DUPLICATE_IDENTITY' })
  t.notOk(copy.isLinked, 'the copy has no link')
  t.ok(world.cluster().isLinked, 'the link of the first cluster stays')
})

/** A link that answers heartbeats or does not. */
class StubLink implements ManagedLink {
  isOpen = true
  reason = ''
  readonly isAlive: boolean
  readonly #ended = Promise.withResolvers<{ kind: 'silent' }>()

  constructor(isAlive = true) {
    this.isAlive = isAlive
  }

  get ended() {
    return this.#ended.promise
  }

  close(reason: string) {
    this.isOpen = false
    this.reason = reason
    this.#ended.resolve({ kind: 'silent' })
  }

  provesAlive() {
    return Promise.resolve(this.isAlive && this.isOpen)
  }
}

t.test('which link of a peer is in use', async (t) => {
  const rows = [
    { why: 'the same process', older: 'a', newer: 'a', isAlive: true, wins: true },
    { why: 'another process, and the older is dead', older: 'a', newer: 'b', isAlive: false, wins: true },
    { why: 'another process, and the older lives', older: 'a', newer: 'b', isAlive: true, wins: false },
    { why: 'a peer of an earlier version', older: undefined, newer: 'b', isAlive: true, wins: true },
    { why: 'a newer one of an earlier version', older: 'a', newer: undefined, isAlive: true, wins: true },
  ]
  for (const { why, older, newer, isAlive, wins } of rows) {
    const duplicates: string[] = []
    const links = new PeerLinks<StubLink>((name) => duplicates.push(name))
    const [first, second] = [new StubLink(isAlive), new StubLink()]
    links.accept('n1', first)
    await links.claim('n1', first, older)
    links.accept('n1', second)
    const claimed = links.claim('n1', second, newer)
    if (wins) await claimed
    else await t.rejects(claimed, { code: 'DUPLICATE_IDENTITY' }, why)
    t.equal(links.get('n1'), wins ? second : first, why)
    t.equal(first.isOpen, !wins, why)
    t.equal(duplicates.length, wins ? 0 : 1, why)
  }
})

t.test('links that say no hello are few, and expelling a peer closes them too', async (t) => {
  const links = new PeerLinks<StubLink>(() => undefined)
  const all = Array.from({ length: 25 }, () => new StubLink())
  for (const link of all) links.accept('n1', link)
  t.equal(all.filter(({ isOpen }) => isOpen).length, 4, 'the oldest were closed')
  t.match(all[0]?.reason, /too many/)
  const used = new StubLink()
  links.accept('n1', used)
  await links.claim('n1', used, 'a')
  links.expel('n1', 'revoked')
  t.same(
    [used, ...all].filter(({ isOpen }) => isOpen),
    [],
  )
  t.equal(links.get('n1'), undefined)
})
