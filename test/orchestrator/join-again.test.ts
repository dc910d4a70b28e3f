import { chmodSync, cpSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { type EnrolOptions, enrol } from '../../src/core/identity/enrol.ts'
import { certificatesIn, enrolmentOf } from '../../src/core/identity/x509.ts'
import { Store } from '../../src/core/kit/store.ts'
import { admit, type Issuing } from '../../src/orchestrator/link/admission.ts'
import { JoinTokens } from '../../src/orchestrator/link/join-tokens.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { Cable } from './cable.ts'
import { mesh, type World } from './mesh.ts'
import { until } from '../support/until.ts'

t.setTimeout(280_000) // a busy machine takes several times as long
const limit = () => AbortSignal.timeout(30_000)

/** Who issues, and where the root shows who has joined. */
const ROLES = {
  node: { token: (world: World) => world.cluster().nodeToken(), rows: '/nodes', id: 'edge/late' },
  relay: { token: (world: World) => world.cluster().relayToken(), rows: '/relays', id: 'edge/late' },
  cluster: { token: (world: World) => world.root.clusterToken('late'), rows: '/clusters', id: 'late' },
} as const

async function isKnown(world: World, role: EnrolOptions['role']): Promise<boolean> {
  const { rows, id } = ROLES[role]
  const listed = await world.api.call<Array<{ id?: string; name?: string }>>('GET', rows)
  return listed.some((row) => (row.id ?? row.name) === id)
}

async function restartIssuer(world: World, role: EnrolOptions['role']): Promise<void> {
  if (role === 'cluster') return void (await world.killRoot(), await world.startRoot())
  await world.killCluster()
  await world.startCluster()
}

function contentOf(token: string): { url: string } {
  return JSON.parse(Buffer.from(token.slice(14), 'base64url').toString()) as { url: string }
}

/** The same token, for an issuer at another address. */
function movedTo(url: string, token: string): string {
  return `hedgerow-join.${Buffer.from(JSON.stringify({ ...contentOf(token), url })).toString('base64url')}`
}

for (const role of ['node', 'relay', 'cluster'] as const) {
  t.test(
    `a ${role} whose certificate did not arrive gets it with the same token, also after kill -9 of its issuer`,
    async (t) => {
      await using world = await mesh()
      const token = ROLES[role].token(world)
      await using cable = await Cable.to(contentOf(token).url)
      const options = { token: movedTo(cable.url, token), role, name: 'late', dir: join(world.dir, 'late') } as const
      cable.loseAnswers({ after: 1 }) // the first asks for the authority
      const lost = t.rejects(enrol(options, limit()), { code: 'NOT_RUNNING' }, 'the answer is lost')
      await until(() => isKnown(world, role), 'it is recorded')
      cable.mend()
      await lost
      await restartIssuer(world, role)

      const refused = (changes: Partial<EnrolOptions>, reason: RegExp, why: string) =>
        t.rejects(enrol({ ...options, ...changes }, limit()), { code: 'TOKEN_REFUSED', details: { reason } }, why)
      await refused({ dir: join(world.dir, 'other') }, /already used/, 'another key is refused')
      if (role !== 'cluster') await refused({ name: 'later' }, /already used/, 'as is the same one under another name')
      const twin = { ...options, dir: join(world.dir, 'twin') }
      cpSync(options.dir, twin.dir, { recursive: true })
      const both = await Promise.all([enrol(options, limit()), enrol(twin, limit())])
      t.match(both[0].identity.principal, { role, [role]: 'late' }, 'the same request is answered')
      const enrolments = both.flatMap(({ identity }) => certificatesIn(identity.chain).slice(0, 1).map(enrolmentOf))
      t.equal(enrolments[0], enrolments[1], 'two at the same time are one member')
      t.notOk(existsSync(join(options.dir, 'joining.json')), 'what was asked is forgotten')
      await refused({}, /already used/, 'and the token does not work for whoever has its certificate')
    },
  )
}

t.test(
  'the same request is admitted once, and answered while its token would have lived and its member is there',
  async (t) => {
    const dir = t.testdir()
    chmodSync(dir, 0o700)
    using store = Store.open(join(dir, 'cluster.db'))
    const clock = new ManualClock()
    const tokens = new JoinTokens(store, { role: 'node', fingerprints: () => ['a'.repeat(64)], clock })
    let recorded: string[] = []
    const issuing: Issuing = {
      refuseIfTaken: () => undefined,
      enrolmentOf: () => recorded.at(-1),
      sign: async (_, enrolment) => `of ${enrolment}`,
      record: (_, enrolment) => void recorded.push(enrolment),
    }
    const { token } = tokens.mint('https://127.0.0.1:1', '', 60)
    const ask = (request = 'n1, by its key') => admit(tokens, { token, request }, issuing)
    const twins = await Promise.all([ask(), ask()])
    t.equal(twins.filter(({ isNew }) => isNew).length, 1, 'of two that both found the token unused one is new')
    const chain = `of ${recorded[0]}`
    t.same(
      twins.map((twin) => twin.chain),
      [chain, chain],
      'both are the one that is recorded',
    )
    await t.rejects(ask('n1, by another key'), { code: 'TOKEN_REFUSED', details: { reason: /already used/ } })

    const [enrolment] = recorded
    recorded = []
    await t.rejects(
      ask(),
      { code: 'TOKEN_REFUSED', details: { reason: /removed or replaced/ } },
      'not once it was removed',
    )
    recorded = [enrolment as string]
    await clock.advance(59_000)
    t.equal((await ask()).isNew, false, 'in the last second')
    await clock.advance(1_000)
    await t.rejects(ask(), { code: 'TOKEN_REFUSED', details: { reason: /already used/ } }, 'and not longer')
  },
)
