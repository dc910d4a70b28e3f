import { cpSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { AuthorityReport } from '../../src/client/reports.ts'
import { RootClient } from '../../src/client/root-client.ts'
import { printPrincipal } from '../../src/core/identity/principal.ts'
import { certificatesIn } from '../../src/core/identity/x509.ts'
import { Authority } from '../../src/core/identity/authority.ts'
import { AWAY_MS, behind, mayIssue, mayRetire, type Member } from '../../src/orchestrator/root/rotation-rules.ts'
import { RelayLink } from '../../src/orchestrator/link/relay-link.ts'
import { enrolNode } from '../../src/orchestrator/worker/join.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { openMetrics } from '../../src/core/metrics.ts'
import { mesh, type World } from './mesh.ts'
import { until } from '../support/until.ts'

t.setTimeout(280_000) // a busy machine takes several times as long

type Node = Awaited<ReturnType<World['node']>>

const status = (world: World) => world.api.call<AuthorityReport>('GET', '/authority')
const rotate = (world: World, force = false) => world.api.call<AuthorityReport>('POST', '/authority/rotate', { force })
const retire = (world: World, force = false) => world.api.call<AuthorityReport>('POST', '/authority/retire', { force })

/** Waits for a step in which nobody is behind. */
async function settled(world: World, step: AuthorityReport['step']): Promise<AuthorityReport> {
  let last: AuthorityReport | undefined
  await until(
    async () => {
      last = await status(world)
      return last.step === step && last.behind.length === 0
    },
    `${step} and nobody behind`,
    async () => JSON.stringify(last),
  )
  return last as AuthorityReport
}

t.test('who keeps a rotation from its next step', async (t) => {
  const member = (id: string, isLive: boolean, trust?: Member['trust']): Member => ({
    id,
    role: 'node',
    isLive,
    ...(trust === undefined ? {} : { trust }),
  })
  const fresh = member('fresh', true, { trusts: ['a', 'b'], presents: 'b' })
  const ready = member('ready', true, { trusts: ['a', 'b'], presents: 'a' })
  const late = member('late', true, { trusts: ['a'], presents: 'a' })
  const off = member('off', false, { trusts: ['a'], presents: 'a' })
  const older = member('older', true)
  const all = [fresh, ready, late, off, older]
  const names = (members: Member[]) => members.map(({ id }) => id)
  t.same(names(behind('spreading', { signs: 'a', beside: 'b' }, all)), ['late', 'off', 'older'])
  t.same(names(behind('issuing', { signs: 'b', beside: 'a' }, all)), ['ready', 'late', 'off', 'older'])
  t.same(names(behind('steady', { signs: 'a' }, all)), ['fresh'])
  t.equal(mayIssue([], 0), true)
  t.equal(mayIssue([off], AWAY_MS - 1), false, 'it may be on its way')
  t.equal(mayIssue([off], AWAY_MS), true, 'who is off follows the introduction later')
  t.equal(mayIssue([off, older], AWAY_MS), false)
  t.equal(mayRetire([off]), false, 'who is off could not come back')
  t.equal(mayRetire([]), true)
})

t.test('an authority is replaced while the mesh runs; who was off comes back, and tokens of both join', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const off = await world.node('n2')
  const relay = await relayOf(world)
  await using _link = relay.link
  const before = await settled(world, 'steady')
  const old = {
    credential: world.credential,
    tokens: [world.cluster().nodeToken(), world.cluster().nodeToken()] as const,
  }
  await off.stop()
  await t.rejects(
    retire(world),
    { code: 'ROTATION_REFUSED', details: { step: 'steady' } },
    'there is nothing to retire before a rotation',
  )

  const next = await spreads(t, world, { n1, signs: before.signs })
  await renews(t, world, { members: [n1, relay, world.cluster()], signs: next, replaced: before.signs })
  t.match(
    await new RootClient(old.credential).call('GET', '/status'),
    { authority: next },
    'a copy of the old admin.json works until the old authority is retired',
  )
  const back = await comesBack(t, world, next)
  const joined = await world.node('n3', { token: old.tokens[0] })
  t.equal(
    joined.identity.trust.presents,
    next,
    'a token from before the rotation joins, with a certificate of the new one',
  )
  await world.node('n4', { token: world.cluster().nodeToken() })
  await settled(world, 'issuing')

  t.match(await retire(world), { step: 'steady', signs: next }, 'with nobody behind, the old authority is retired')
  await reconnects(world, [n1, back, relay])
  t.equal((await settled(world, 'steady')).members, 6, 'the cluster, the relay and four nodes are members still')
  await refusesOld(t, world, old)
  await world.node('n6')

  await rotate(world) // once more, to see that nothing was left of the first time
  const again = await status(world)
  t.ok([again.signs, again.replaced].includes(next), 'a second rotation begins from the new authority')
})

/** The list that names both goes to everybody; a node that is off does not hold it up for ever. @returns the next authority */
async function spreads(t: Test, world: World, { n1, signs }: { n1: Node; signs: string }): Promise<string> {
  const begun = await rotate(world)
  t.match(
    begun,
    { step: 'spreading', signs, members: 4 },
    'the old authority signs while the trust in the next one spreads',
  )
  await t.rejects(rotate(world), { code: 'ROTATION_REFUSED' }, 'there is one rotation at a time')
  await until(() => n1.identity.trust.trusts.length === 2, 'n1 trusts both')
  t.equal(
    (await status(world)).step,
    'spreading',
    'a node that has just gone may be on its way back, and is waited for',
  )
  await until(async () => (await status(world)).step !== 'spreading', 'all that are up trust both')
  t.equal((await status(world)).step, 'issuing', 'it goes on by itself when all that are up trust both')
  return begun.next ?? ''
}

/** Whoever is up has a certificate of the new authority soon; n2 is off. */
async function renews(
  t: Test,
  world: World,
  { members, signs, replaced }: { members: readonly Pick<Node, 'identity'>[]; signs: string; replaced: string },
): Promise<void> {
  await until(async () => (await status(world)).behind.length === 1, 'one is behind')
  t.match(
    await status(world),
    { signs, replaced, behind: [{ id: 'edge/n2', isLive: false }] },
    'the next authority signs, and only the node that is off is behind',
  )
  for (const { identity } of members)
    t.equal(
      identity.trust.presents,
      signs,
      `${printPrincipal(identity.principal)} presents a certificate of the new authority`,
    )
  await t.rejects(
    retire(world),
    { code: 'ROTATION_REFUSED', details: { members: ['edge/n2'] } },
    'the old authority is not retired while a member needs it',
  )
}

/** n2 starts with the certificate, and the trust, from before. */
async function comesBack(t: Test, world: World, signs: string): Promise<Node> {
  const back = await world.node('n2')
  await until(() => back.identity.trust.trusts.length === 2, 'it learns of the new one when its link is up')
  await settled(world, 'issuing')
  t.equal(back.identity.trust.presents, signs, 'the node that was off gets a certificate of the new authority')
  return back
}

/** After the retirement every connection is made anew. */
async function reconnects(
  world: World,
  members: readonly (Pick<Node, 'identity'> & { uplink?: Node['uplink']; link?: RelayLink })[],
): Promise<void> {
  await until(() => members.every(({ identity }) => identity.ca === world.root.ca), 'all trust the new one alone')
  const conditions = async () =>
    (await world.api.call<{ condition: string }[]>('GET', '/nodes')).map((one) => one.condition)
  await until(async () => (await conditions()).every((one) => one === 'alive'), 'all are back')
  await until(
    () => world.cluster().isLinked && members.every(({ uplink, link }) => (uplink ?? link)?.isUp === true),
    'all links are up',
  )
}

async function refusesOld(
  t: Test,
  world: World,
  { credential, tokens }: { credential: World['credential']; tokens: readonly [string, string] },
): Promise<void> {
  await t.rejects(
    new RootClient(credential).call('GET', '/status'),
    { code: 'NOT_RUNNING' },
    'a copy of the old admin.json works no longer',
  )
  await t.rejects(
    world.node('n5', { token: tokens[1] }),
    { code: 'TOKEN_REFUSED', details: { reason: /replaced its authority/ } },
    'a token from before the rotation joins no longer, and the refusal says why',
  )
}

t.test('a root that is stopped in any step goes on from there', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const first = await settled(world, 'steady')
  await world.stopRoot()
  // the file is written, and nothing else: as after a crash at the worst moment
  const authority = await Authority.open(join(world.dir, 'root', 'authority'))
  await authority.rotate()
  await world.startRoot()
  await until(() => n1.identity.trust.trusts.length === 2, 'the list was signed anew')
  await until(async () => (await status(world)).step === 'issuing', 'and it goes on')
  await world.stopRoot()
  await world.startRoot()
  const issuing = await settled(world, 'issuing')
  t.equal(issuing.replaced, first.signs)
  await world.stopRoot()
  await (await Authority.open(join(world.dir, 'root', 'authority'))).retire()
  await world.startRoot()
  await until(() => n1.identity.ca === world.root.ca, 'the old one is dropped everywhere')
  await until(() => world.cluster().isLinked && n1.uplink.isUp, 'all links are up')
  t.match(await settled(world, 'steady'), { signs: issuing.signs, members: 2 })
})

t.test(
  'a step whose consequences cannot all be written is a step all the same, and they are written later',
  async (t) => {
    await using world = await mesh()
    const n1 = await world.node('n1')
    const file = join(world.dir, 'root', 'admin.json')
    const client = world.api
    const draft = `${file}.draft`
    mkdirSync(join(draft, 'in-the-way'), { recursive: true })
    await t.rejects(client.call('POST', '/authority/rotate', {}), { code: 'STATE_UNREADABLE' })
    t.equal((await client.call<AuthorityReport>('GET', '/authority')).step, 'spreading')
    await until(() => n1.identity.trust.trusts.length === 2, 'the members know')
    t.equal(certificatesIn(world.credential.ca).length, 1)
    rmSync(draft, { recursive: true })
    await until(() => world.credential.ca === world.root.ca, 'the credential has both authorities')
  },
)

t.test('a root that was restored from before the rotation takes its members back', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const first = await settled(world, 'steady')
  await world.stopRoot()
  cpSync(join(world.dir, 'root'), join(world.dir, 'backup'), { recursive: true })
  await world.startRoot()
  await rotate(world)
  await until(async () => (await status(world)).step === 'issuing', 'issuing')
  await settled(world, 'issuing')
  await world.stopRoot()
  rmSync(join(world.dir, 'root'), { recursive: true })
  cpSync(join(world.dir, 'backup'), join(world.dir, 'root'), { recursive: true })
  await world.startRoot()
  t.match(await status(world), { step: 'steady', signs: first.signs })
  await until(() => world.cluster().isLinked, 'the cluster is linked by the introduction of its authority')
  t.ok(n1.uplink.isUp, 'the link of the node stays')
})

t.test('retire --force cuts off whoever still has the old certificate', async (t) => {
  await using world = await mesh()
  const n1 = await world.node('n1')
  const off = await world.node('n2')
  await off.stop()
  await rotate(world, true)
  t.equal((await status(world)).step, 'issuing', 'at once')
  await until(
    () =>
      n1.identity.trust.presents === world.cluster().identity.trust.presents && n1.identity.trust.trusts.length === 2,
    'n1 has renewed',
  )
  await until(async () => (await status(world)).behind.length === 1, 'only n2 is behind')
  await retire(world, true)
  await until(
    () => world.cluster().isLinked && n1.uplink.isUp && n1.identity.ca === world.root.ca,
    'the others are back',
  )
  // with the right certificate a link is up in a tenth of this, and each refused try is followed by the next
  await t.rejects(world.node('n2', { linkedWithinMs: 5_000 }), /n2 is linked/, 'it cannot come back')
  await world.api.call('DELETE', '/nodes/edge/n2')
  const again = await world.node('n2', { token: world.cluster().nodeToken(), dir: 'n2-again' })
  t.equal(again.identity.ca, world.root.ca, 'but join again')
})

/** A stand-alone relay, as far as its cluster sees it. */
async function relayOf(world: World) {
  const joining = { role: 'relay', name: 'r1', dir: join(world.dir, 'relay') } as const
  const { identity, url: clusterUrl } = await enrolNode(
    { ...joining, token: world.cluster().relayToken() },
    AbortSignal.timeout(30_000),
  )
  const at = { clusterUrl, identity, url: 'wss://127.0.0.1:1/relay', version: '0.0.0' }
  const link = RelayLink.start(at, silentLog, openMetrics('relay'))
  await until(() => link.isUp, 'the relay is linked')
  return { identity, link }
}
