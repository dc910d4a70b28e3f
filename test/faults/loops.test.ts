import t from 'tap'
import { Prober } from '../../proxy/outbound/prober.ts'
import { NatDiscovery } from '../../proxy/paths/nat/discovery.ts'
import { PortMapper } from '../../proxy/paths/port-mapping/port-mapper.ts'
import { RelayListener } from '../../proxy/paths/relays/relay-listener.ts'
import { openPeers } from '../../proxy/tunnel/peers/peers.ts'
import type { HeldIdentity } from '../../src/core/identity/held.ts'
import { background } from '../../src/core/kit/background.ts'
import { systemClock, type Clock } from '../../src/core/kit/clock.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { Feed } from '../../src/core/table/feed.ts'
import { Interests } from '../../src/core/table/interests.ts'
import { Table } from '../../src/core/table/table.ts'
import { DialledLink } from '../../src/orchestrator/link/dialled-link.ts'
import { RelayLink } from '../../src/orchestrator/link/relay-link.ts'
import { Uplink } from '../../src/orchestrator/worker/uplink.ts'
import { TestMesh } from '../identity/mesh.ts'
import { mesh as controlPlane } from '../orchestrator/mesh.ts'
import { credentialsOf } from '../relay/site.ts'

/*
 * A bug in any background loop: it throws once, where it sleeps. The loop must go on, and the failure must be counted.
 */

await using mesh = await TestMesh.create()
const edge = await mesh.cluster('edge')
const n1 = await mesh.node(edge, 'n1')
const NOWHERE = '127.0.0.1:9'
const stop = background.logTo(silentLog)
t.teardown(stop)

/** The first sleep of the function named `inside` throws; `again` resolves when that function sleeps once more. */
function throwingClock(inside: string): { clock: Clock; again: Promise<void> } {
  const again = Promise.withResolvers<void>()
  let calls = 0
  const sleep = (ms: number, signal?: AbortSignal) => {
    if (!new Error('where').stack?.includes(inside)) return systemClock.sleep(ms, signal)
    calls += 1
    if (calls === 1) throw new Error('injected')
    again.resolve()
    return systemClock.sleep(ms, signal)
  }
  return { clock: { ...systemClock, sleep }, again: again.promise }
}

/** An identity whose renewal throws when it is first started. */
function throwingIdentity(
  identity: HeldIdentity,
  principal = identity.principal,
): { identity: HeldIdentity; again: Promise<void> } {
  const again = Promise.withResolvers<void>()
  let calls = 0
  const renewLoop = (_options: unknown, signal: AbortSignal): Promise<void> => {
    calls += 1
    if (calls === 1) throw new Error('injected')
    again.resolve()
    return new Promise((done) => signal.addEventListener('abort', () => done()))
  }
  const get = (target: HeldIdentity, key: keyof HeldIdentity) => {
    if (key === 'renewLoop') return renewLoop
    if (key === 'principal') return principal
    const value: unknown = target[key]
    return typeof value === 'function' ? (value.bind(target) as unknown) : value
  }
  return { identity: new Proxy(identity, { get: get as never }), again: again.promise }
}

const failuresOf = (name: string) => background.failures().find((failure) => failure.name === name)?.failures ?? 0

interface Row {
  loop: string
  start: () => Promise<{ running: AsyncDisposable; again: Promise<void> }>
}

const metrics = openMetrics('agent')

const ROWS: readonly Row[] = [
  {
    loop: 'tunnel upkeep',
    start: async () => {
      const { clock, again } = throwingClock('peers.ts')
      const secure = {
        connect: () => Promise.reject(new Error('none')),
        accept: () => Promise.reject(new Error('none')),
      }
      const running = openPeers({ self: 'edge/n1', dialers: [], secure, accept: () => undefined, clock })
      return { running, again }
    },
  },
  {
    loop: 'round-trip prober',
    start: async () => {
      const { clock, again } = throwingClock('prober.ts')
      const peers = { existing: () => undefined, session: () => Promise.reject(new Error('none')) }
      const running = await Prober.start({ table: new Table({ clock }), peers: peers as never, self: 'edge/n1', clock })
      return { running, again }
    },
  },
  {
    loop: 'NAT discovery',
    start: async () => {
      const { clock, again } = throwingClock('discovery.ts')
      const hosts = { ipv4: '127.0.0.1' }
      const running = await NatDiscovery.start({
        hosts,
        isOwn: () => false,
        isPublic: () => true,
        clock,
        log: silentLog,
      })
      return { running, again }
    },
  },
  {
    loop: 'port mapping',
    start: async () => {
      const { clock, again } = throwingClock('port-mapper.ts')
      const nothing = { gateway: () => undefined, ports: () => [], onChange: () => undefined, secret: 'of this node' }
      return { running: PortMapper.start({ ...nothing, clock }, silentLog), again }
    },
  },
  {
    loop: 'relay listener',
    start: async () => {
      const { clock, again } = throwingClock('relay-listener.ts')
      const nobody = { credentials: credentialsOf(n1), onConnection: () => undefined }
      return { running: RelayListener.start({ url: `wss://${NOWHERE}/relay`, ...nobody, clock }, silentLog), again }
    },
  },
  {
    loop: 'table feed',
    start: async () => {
      const { clock, again } = throwingClock('feed.ts')
      const table = new Table({ clock })
      const source = {
        // eslint-disable-next-line require-yield -- a stream that ends at once
        async *messages() {},
        request: () => Promise.reject(new Error('none')),
        interests: () => undefined,
      }
      const interests = await Interests.start({ table, source: source as never, clock }, silentLog)
      const feed = await Feed.start({ table, interests, source, clock }, silentLog, metrics)
      const close = async () => {
        await feed.close()
        await interests[Symbol.asyncDispose]()
      }
      return { running: { [Symbol.asyncDispose]: close }, again }
    },
  },
  {
    loop: 'control link',
    start: async () => {
      const { clock, again } = throwingClock('dialled-link.ts')
      const sides = { speaks: {}, hears: {}, asked: {}, told: {} }
      const dial = () => Promise.reject(new Error('none'))
      const options = { dial, sides, onUp: () => Promise.resolve(), onDown: () => undefined }
      const parts = { tier: 'cluster' as const, peer: 'edge', clock, log: silentLog, metrics }
      return { running: DialledLink.start(options as never, parts), again }
    },
  },
  {
    loop: 'node certificate renewal',
    start: async () => {
      const { identity, again } = throwingIdentity(n1)
      const worker = { reports: () => [], keepOnly: () => undefined, assign: () => undefined, withdraw: () => true }
      const facts = () => ({}) as never
      const options = { urls: [`https://${NOWHERE}`], identity, facts, worker: worker as never }
      return { running: Uplink.start(options, silentLog, metrics), again }
    },
  },
  {
    loop: 'relay certificate renewal',
    start: async () => {
      const { identity, again } = throwingIdentity(n1, {
        role: 'relay',
        mesh: n1.principal.mesh,
        cluster: 'edge',
        relay: 'r1',
      })
      const facts = { url: `wss://${NOWHERE}/relay`, version: '0', onRevoked: () => undefined }
      return {
        running: RelayLink.start({ clusterUrl: `https://${NOWHERE}`, identity, ...facts }, silentLog, metrics),
        again,
      }
    },
  },
]

for (const { loop, start } of ROWS) {
  t.test(`${loop}: a loop that throws once goes on`, async (t) => {
    const before = failuresOf(loop)
    const { running, again } = await start()
    await again
    t.equal(failuresOf(loop) - before, 1, 'the failure is counted')
    await running[Symbol.asyncDispose]()
  })
}

t.test('root and cluster certificate renewal: a loop that throws once goes on', async (t) => {
  const root = throwingClock('renewal.ts')
  const cluster = throwingClock('renewal.ts')
  await using world = await controlPlane({ root: { clock: root.clock }, cluster: { clock: cluster.clock } })
  await Promise.all([root.again, cluster.again])
  t.equal(failuresOf('root certificate renewal'), 1)
  t.equal(failuresOf('cluster certificate renewal'), 1)
  t.ok(world.root.url.startsWith('https'), 'both still serve')
})
