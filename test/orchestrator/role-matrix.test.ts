import { readFileSync } from 'node:fs'
import { Agent } from 'node:https'
import t from 'tap'
import { OPERATIONS } from '../../src/orchestrator/root/v1/routes.ts'
import type { Operation } from '../../src/orchestrator/root/v1/operation.ts'
import { ROLE_WORDS, type Role } from '../../src/orchestrator/root/people/roles.ts'
import { documentOf, PASSWORD, twoOperators } from './operators.ts'
import { send, watching } from './v1.ts'
import { until } from '../support/until.ts'

/*
 * Roles × calls: every call of the API, asked in every role about what is of the own organisation (acme, cluster ours) and of another
 * one (beta, cluster theirs), compared with the table in docs/tenants.md. `.config/docs/tenants.ts` writes that from what calls need; here the
 * root itself answers.
 */

t.setTimeout(120_000)

type Cell = 'yes' | 'no' | 'nothing' | 'unknown' | 'not in it' | '–'

/** By call: the cell of each role, and that of another organisation. */
function rowsOf(page: string): Map<string, { own: Map<Role, Cell>; others: Cell }> {
  const rows = page.split('\n').filter((line) => /^\| `[A-Z]+ \/v1\//.test(line))
  return new Map(
    rows.map((line) => {
      const cells = line.split('|').map((cell) => cell.trim())
      const own = new Map(ROLE_WORDS.map((role, at) => [role, cells[at + 2] as Cell]))
      return [cells[1]?.replaceAll('`', '') ?? '', { own, others: cells[ROLE_WORDS.length + 2] as Cell }]
    }),
  )
}

const nameOf = ({ method, path }: Operation) => `${method.toUpperCase()} /v1${path}`

const OURS = { namespace: 'acme', cluster: 'ours', user: 'ann' }
const THEIRS = { namespace: 'beta', cluster: 'theirs', user: 'bob' }
type Whose = typeof OURS & { token?: string }

/** Calls whose body says what they are about: a new one of them needs a row here. */
const GIVEN: Readonly<Record<string, (whose: Whose, role: Role) => object>> = {
  apply: ({ namespace }) => documentOf(namespace),
  putSecret: ({ namespace }) => ({ name: `shop.${namespace}.new`, value: '' }),
  createJoinToken: ({ cluster }) => ({ role: 'node', cluster }),
  createUser: ({ namespace: organisation }, role) => ({ name: `new-${role}`, organisation }),
  changeUser: () => ({}),
  deleteUser: () => ({}),
}

/** What a call of oneself has to be asked with, so that nothing ends by it. */
const OF_ONESELF: Readonly<Record<string, object>> = {
  setPassword: { password: PASSWORD, old: 'is not that' },
  createApiToken: { name: 'one more' },
}

/** Lists that have nothing in this world, or name nothing. */
const EMPTY = new Set(['listRuns', 'listRelays', 'getStatus', 'listUsers', 'listApiTokens', 'whoami'])

/** What of a path is asked for: what there is; but what would go by it does not exist, where it is one’s own. */
function pathOf({ path, id, method, body }: Operation, whose: Whose): string {
  const { namespace, cluster, user, token } = whose
  const isSafe = method === 'get' || body !== undefined || namespace === THEIRS.namespace
  const service = `shop.${namespace}.${isSafe ? 'cart' : 'none'}.prod`
  const [, kind = ''] = path.split('/')
  const names: Readonly<Record<string, string>> = {
    clusters: isSafe ? cluster : 'spare',
    organisations: isSafe ? namespace : 'none',
    instances: `${service}.0`,
    apps: `${isSafe ? 'shop' : 'none'}.${namespace}`,
    services: service,
    secrets: `shop.${namespace}.${isSafe ? 'key' : 'none'}`,
    volumes: `shop.${namespace}.none`,
    users: user,
  }
  const filled = path
    .replace('{name}', names[kind] ?? '')
    .replace('{cluster}', cluster)
    .replace('{node}', isSafe ? 'n' : 'none')
    .replace('{relay}', 'none')
    .replace('{runtime}', 'process')
    .replace('{called}', service)
    .replace('{exec}', '0'.repeat(32))
    .replace('{id}', token ?? 'none')
  return `/v1${filled}${id === 'apply' ? '?dryRun=true' : ''}`
}

t.test('every call is in the table of docs/tenants.md, and nothing else is', (t) => {
  const rows = rowsOf(readFileSync(new URL('../../docs/tenants.md', import.meta.url), 'utf8'))
  t.same([...rows.keys()], OPERATIONS.map(nameOf), 'npm run docs writes it')
  for (const { id, needs } of OPERATIONS)
    if (needs.endsWith(' given')) t.ok(GIVEN[id], `${id}: say in GIVEN what it is asked with`)
  t.end()
})

t.test('each role is answered as the table says: roles × calls', async (t) => {
  await using all = await twoOperators()
  const { world, admin } = all
  const table = rowsOf(readFileSync(new URL('../../docs/tenants.md', import.meta.url), 'utf8'))
  for (const { namespace: organisation, user: name } of [OURS, THEIRS]) {
    await admin('POST', '/v1/users', { name, organisation, password: PASSWORD })
    await admin('POST', '/v1/secrets', { name: `shop.${organisation}.key`, value: '' })
  }
  // what may be deleted; its name stays its owner’s
  await world.startCluster('spare')
  await admin('PUT', '/v1/clusters/spare/owner', { organisation: 'acme' })
  const sessionOf = async (user: string) =>
    (await send(world, '/v1/login', { method: 'POST', body: { user, password: PASSWORD } })).body.token as string
  const theirs = { ...THEIRS, token: (await sessionOf('bob')).split('.')[1] ?? '' }
  const isTheirs = ({ user }: { user?: string }) => user === 'admin' || user === 'bob'
  const before = await world.instances()
  const { ca } = world.credential
  const agent = new Agent({ keepAlive: true, ca, checkServerIdentity: () => undefined })
  t.teardown(() => agent.destroy())
  let asked = 0

  for (const role of ROLE_WORDS) {
    const all = role === 'administrator'
    const grants = [all ? { role } : { role, organisation: 'acme' }]
    const made = await admin('POST', '/v1/users', {
      name: role,
      password: PASSWORD,
      grants,
      ...(all ? {} : { organisation: 'acme' }),
    })
    t.equal(made.status, 200)
    const session = await sessionOf(role)
    const answer = async (call: Operation, whose: Whose) => {
      asked++
      const path = pathOf(call, call.id === 'setPassword' && whose === OURS ? { ...whose, user: role } : whose)
      const isGiven = Object.hasOwn(GIVEN, call.id) || Object.hasOwn(OF_ONESELF, call.id)
      const given = GIVEN[call.id]?.(whose, role) ?? OF_ONESELF[call.id] ?? { nothing: 'is right' }
      const body = call.body === undefined && !isGiven ? undefined : call.method === 'delete' ? undefined : given
      const token = call.id === 'logout' ? await sessionOf(role) : session
      return send(world, path, {
        method: call.method.toUpperCase(),
        token,
        agent,
        ...(body === undefined ? {} : { body }),
      })
    }
    for (const call of OPERATIONS) {
      const row = table.get(nameOf(call))
      const why = `${role} ${nameOf(call)}`
      if (call.needs === 'open' || call.bodyType !== undefined) continue
      if (call.contentType === 'text/event-stream') {
        using stream = watching(world, session, `/v1${call.path}${call.id === 'followEvents' ? '?after=0' : ''}`)
        await until(() => /acme|ours/.test(stream.text), why)
        if (call.id === 'watch') await until(() => stream.text.includes('synced'), why)
        t.equal(/beta|theirs/.test(stream.text), all, `${why} of another`)
        continue
      }
      const own = await answer(call, OURS)
      // of the audit log without what this role has tried itself
      const answered = call.id === 'listAudit' && !all ? own.body.items.filter(isTheirs) : own.body
      const text = JSON.stringify(answered)
      const isList = call.needs.endsWith(' listed')
      const cell = row?.own.get(role)
      if (cell === 'no') t.match(own, { status: 403, body: { code: 'FORBIDDEN' } }, why)
      else if (cell === 'nothing') t.match(own, { status: 200, body: { items: [] } }, why)
      else if (cell === 'unknown') t.equal(own.status, 404, why)
      else {
        t.equal(cell, 'yes', why)
        t.notOk(own.status === 403 || (own.status === 401 && own.body.code !== 'LOGIN_REFUSED'), `${why} ${own.status}`)
        if (call.method === 'get' && call.needs !== 'self') t.equal(own.status, 200, `${why} ${text}`)
        if (isList && !EMPTY.has(call.id)) t.match(text, /acme|ours/, why)
        if (isList && !all) t.notMatch(text, /beta|theirs|bob/, `${why}: ${row?.others}`)
      }
      if (all || isList || row?.others === '–') continue
      const other = await answer(call, theirs)
      t.equal(other.status, row?.others === 'no' ? 403 : 404, `${why} of another: ${JSON.stringify(other.body)}`)
      if (row?.others === 'unknown') t.notMatch(JSON.stringify(other.body), /FORBIDDEN/, why)
    }
  }
  t.comment(`${OPERATIONS.length} calls, ${ROLE_WORDS.length} roles, ${asked} questions`)
  const placed = (rows: typeof before) => rows.map(({ id, node }) => [id, node])
  t.same(placed(await world.instances()), placed(before), 'nothing was changed')
})
