import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Authority } from '../../src/core/identity/authority.ts'
import { readRevocations } from '../../src/core/identity/revocation-list.ts'
import { silentLog } from '../../src/core/kit/log.ts'
import { Store } from '../../src/core/kit/store.ts'
import { Table } from '../../src/core/table/table.ts'
import type { Revocation } from '../../src/core/identity/contract.ts'
import type { MeshError } from '../../src/core/errors.ts'
import { JoinTokens } from '../../src/orchestrator/link/join-tokens.ts'
import { RevocationRegister } from '../../src/orchestrator/root/revocation-register.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { entryOf } from '../table/world.ts'

/*
 * Deadlines that are kept as wall time, under a clock that steps by a year both ways. Elsewhere: VIPs that rest
 * (test/orchestrator/vips.test.ts), certificates (test/identity/renewal.test.ts, grace.test.ts).
 */

const YEAR_MS = 365 * 86_400_000
const HOUR_MS = 3_600_000
const STEPS = [YEAR_MS, -YEAR_MS]

/** A clock that somebody sets. */
class SteppedClock extends ManualClock {
  stepMs = 0
  override wall(): number {
    return super.wall() + this.stepMs
  }
}

function storeOf(t: Test): Store {
  const dir = t.testdir()
  chmodSync(dir, 0o700)
  const store = Store.open(join(dir, 'root.db'))
  t.teardown(() => store.close())
  return store
}

const USE = { request: 'n1, by its key', enrolment: '4000000000000001' }
const KIND = { role: 'node', fingerprints: () => ['a'.repeat(64)] } as const

t.test('a join token lives for its time, whatever the clock does meanwhile', async (t) => {
  for (const step of STEPS) {
    const [clock, store] = [new SteppedClock(), storeOf(t)]
    const tokens = new JoinTokens(store, { ...KIND, clock })
    const { token } = tokens.mint('https://127.0.0.1:1', '', 3_600)
    clock.stepMs = step
    await clock.advance(HOUR_MS - 1_000)
    tokens.mint('https://127.0.0.1:1', '', 3_600) // clears what is over
    t.doesNotThrow(() => tokens.check(token), `in its last second, clock set by ${step}`)
    await clock.advance(1_000)
    t.throws(() => tokens.check(token), { code: 'TOKEN_REFUSED' }, 'and not longer')
  }
})

function refusalOf(tokens: JoinTokens, token: string): unknown {
  try {
    return tokens.check(token)
  } catch (error) {
    return error
  }
}

t.test('the holder of a past join token hears what became of it, and nobody else does', async (t) => {
  const [clock, store] = [new SteppedClock(), storeOf(t)]
  const tokens = new JoinTokens(store, { ...KIND, clock })
  const mint = (seconds: number) => tokens.mint('https://127.0.0.1:1', '', seconds).token
  const reasonOf = (token: string) => (refusalOf(tokens, token) as MeshError).details['reason']
  const content = (token: string) => JSON.parse(Buffer.from(token.slice(14), 'base64url').toString()) as object
  const forged = (token: string) =>
    `hedgerow-join.${Buffer.from(JSON.stringify({ ...content(token), secret: 'A'.repeat(43) })).toString('base64url')}`
  const [used, expired] = [mint(3_600), mint(60)]
  const usedAt = new Date(clock.wall()).toISOString()
  tokens.consume(used, USE, () => undefined)
  await clock.advance(120_000)
  mint(3_600) // clears what is over
  t.equal(reasonOf(used), `it was already used, at ${usedAt}`)
  t.match(reasonOf(expired), /^it has expired 60 seconds ago, by the clock of its issuer/)
  for (const token of [used, expired]) t.equal(reasonOf(forged(token)), 'it is unknown or was already used')

  for (let at = 0; at < 1_000; at += 1) tokens.consume(mint(3_600), USE, () => undefined)
  t.equal(store.collection('past-join-tokens').keys().length, 1_000, 'no more are remembered')
  t.equal(reasonOf(used), 'it is unknown or was already used', 'the oldest are forgotten')
  await clock.advance(31 * 24 * HOUR_MS)
  tokens.consume(mint(3_600), USE, () => undefined)
  t.equal(store.collection('past-join-tokens').keys().length, 1, 'and none for more than 30 days')
})

t.test('who makes many tokens does not look through all of them each time', async (t) => {
  const [clock, store] = [new SteppedClock(), storeOf(t)]
  const tokens = new JoinTokens(store, { ...KIND, clock })
  const mint = (seconds: number) => tokens.mint('https://127.0.0.1:1', '', seconds).token
  const open = () => store.collection('join-tokens').keys().length
  const brief = mint(1)
  await clock.advance(59_000)
  mint(3_600)
  t.equal(open(), 2, 'one that has expired is put away within a minute')
  t.match(
    refusalOf(tokens, brief),
    { details: { reason: /^it has expired 58 seconds ago/ } },
    'and is worth nothing before',
  )
  await clock.advance(1_000)
  mint(3_600)
  t.equal(open(), 2)
  t.match(refusalOf(tokens, brief), { details: { reason: /^it has expired 59 seconds ago/ } })
})

t.test('a token made while the clock was a year ahead is worth nothing once that is put right', async (t) => {
  const [clock, store] = [new SteppedClock(), storeOf(t)]
  clock.stepMs = YEAR_MS
  const { token } = new JoinTokens(store, { ...KIND, clock }).mint('https://127.0.0.1:1', '', 3_600)
  clock.stepMs = 0
  const afterRestart = new JoinTokens(store, { ...KIND, clock })
  t.match(refusalOf(afterRestart, token), { code: 'TOKEN_REFUSED', details: { reason: /made in the future/ } })
  clock.stepMs = YEAR_MS
  t.doesNotThrow(() => new JoinTokens(store, { ...KIND, clock }).check(token))
  clock.stepMs = 2 * YEAR_MS
  t.match(refusalOf(new JoinTokens(store, { ...KIND, clock }), token), { details: { reason: /has expired/ } })
})

t.test('a revocation outlasts a clock that is years ahead for a moment', async (t) => {
  const [clock, store] = [new SteppedClock(), storeOf(t)]
  const dir = join(t.testdir(), 'authority')
  const authority = await Authority.open(dir)
  const parts = { entries: store.collection<Revocation>('revocations'), numbers: store.collection<number>('counters') }
  const register = new RevocationRegister(parts, authority, { clock, log: silentLog })
  const entry = (id: number) => ({
    kind: 'enrolment' as const,
    id: id.toString(16).padStart(16, '0'),
    principal: `edge/n${id}`,
  })
  register.revoke([entry(1)])
  clock.stepMs = 3 * YEAR_MS
  register.revoke([entry(2)])
  clock.stepMs = 0
  register.revoke([entry(3)])
  const ids = readRevocations(register.text, authority.ca).entries.map(({ principal }) => principal)
  t.same(ids.toSorted(), ['edge/n1', 'edge/n2', 'edge/n3'])

  register.revoke(Array.from({ length: 400 }, (_, i) => entry(i + 10)))
  clock.stepMs = 3 * YEAR_MS
  register.revoke([entry(4)])
  t.equal(readRevocations(register.text, authority.ca).entries.length, 256, 'yet the list does not grow for ever')
})

t.test('names in use are not forgotten for a step of the clock, also over a restart', async (t) => {
  const KEY = 'shop.acme.cart'
  for (const step of STEPS) {
    const clock = new SteppedClock()
    const table = new Table({ clock })
    table.expect(KEY)
    table.learn(KEY, { seq: 1, entries: [entryOf('shop.acme.cart.prod')] })
    clock.stepMs = step
    t.same(table.idle(24 * HOUR_MS), [], `set by ${step}`)
    const saved = table.snapshot()
    clock.stepMs = -step
    const after = new Table({ clock })
    after.restore(saved)
    t.same(after.idle(24 * HOUR_MS), [], 'a start with a wrong clock')
    await clock.advance(25 * HOUR_MS)
    t.same(table.idle(24 * HOUR_MS), [KEY], 'but one that is not used goes after its time')
    t.same(after.idle(24 * HOUR_MS), [KEY])
  }
})
