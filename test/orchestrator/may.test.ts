import { readFileSync } from 'node:fs'
import t from 'tap'
import type { Need } from '../../src/orchestrator/root/people/need.ts'
import { OpenRequests } from '../../src/orchestrator/root/people/open-requests.ts'
import { may, mayPlace, type Caller, type Thing } from '../../src/orchestrator/root/people/may.ts'
import { governs, refusedGrants } from '../../src/orchestrator/root/people/governing.ts'
import { beyond } from '../../src/orchestrator/root/people/bounds.ts'
import { sessionIn } from '../../src/orchestrator/root/people/cookie.ts'
import {
  PERMISSIONS,
  permits,
  ROLE_WORDS,
  type Permission,
  type Role,
} from '../../src/orchestrator/root/people/roles.ts'

const words = Object.keys(PERMISSIONS) as Permission[]
const OURS: Thing = { kind: 'app', app: 'shop.acme', organisation: 'acme' }
const THEIRS: Thing = { kind: 'app', app: 'site.beta', organisation: 'beta' }
const NOBODYS: Thing = { kind: 'app', app: 'old.times', organisation: undefined }
const cluster = (owner: string | undefined, ...admits: string[]): Thing => ({ kind: 'cluster', owner, admits })
const of = (role: Role, organisation?: string) => ({ role, ...(organisation === undefined ? {} : { organisation }) })
const who = (...grants: ReturnType<typeof of>[]): Pick<Caller, 'grants'> => ({ grants })

t.test('the roles are those of docs/tenants.md', (t) => {
  const page = readFileSync(new URL('../../docs/tenants.md', import.meta.url), 'utf8')
  for (const role of ROLE_WORDS) {
    const row = words.map((word) => (permits(role, word) ? 'yes' : '–')).join(' | ')
    t.ok(page.includes(`| \`${role}\` | ${row} |`), role)
  }
  for (const [word, about] of Object.entries(PERMISSIONS)) t.ok(page.includes(`| \`${word}\` | ${about} |`), word)
  t.end()
})

t.test('each role may what it permits in its own organisation, and nothing elsewhere', (t) => {
  for (const role of ROLE_WORDS) {
    const all = role === 'administrator'
    const caller = who(of(role, all ? undefined : 'acme'))
    for (const word of words) {
      t.equal(may(caller, word, OURS), permits(role, word), `${role} ${word} ours`)
      t.equal(may(caller, word, THEIRS), all, `${role} ${word} theirs`)
      t.equal(may(caller, word, NOBODYS), all, `${role} ${word} nobody's`)
      t.equal(may(caller, word, { kind: 'mesh' }), all, `${role} ${word} of the mesh`)
      t.equal(may(caller, word, cluster('acme')), permits(role, word), `${role} ${word} of our cluster`)
      t.equal(may(caller, word, cluster('beta')), all, `${role} ${word} of their cluster`)
      const isSeen = word === 'see' || all
      t.equal(may(caller, word, cluster('beta', 'acme')), isSeen, `${role} ${word} of one that admits us`)
      t.equal(may(caller, word, cluster(undefined)), isSeen, `${role} ${word} of one that nobody owns`)
    }
  }
  t.notOk(may(who(), 'see', OURS), 'without a role')
  t.notOk(may(who({ role: 'viewer' }), 'see', NOBODYS), 'a role in no organisation is none')
  t.end()
})

t.test('a token may what its owner may, and no more than its limits', (t) => {
  const admin = who(of('administrator'))
  const rows: [why: string, limits: Caller['limits'], permission: Permission, thing: Thing, expected: boolean][] = [
    ['a role', { grants: [of('viewer', 'acme')] }, 'see', OURS, true],
    ['not more than the role', { grants: [of('viewer', 'acme')] }, 'change', OURS, false],
    ['not elsewhere', { grants: [of('viewer', 'acme')] }, 'see', THEIRS, false],
    ['not the mesh', { grants: [of('viewer', 'acme')] }, 'mesh', { kind: 'mesh' }, false],
    ['no role at all', { grants: [] }, 'see', OURS, false],
    ['one app', { apps: ['shop.acme'] }, 'change', OURS, true],
    ['no other app', { apps: ['shop.acme'] }, 'see', THEIRS, false],
    ['where it may run', { apps: ['shop.acme'] }, 'see', cluster(undefined), true],
    ['nothing of clusters beside', { apps: ['shop.acme'] }, 'operate', cluster(undefined), false],
    ['nobody’s people', { apps: ['shop.acme'] }, 'people', { kind: 'organisation', organisation: 'acme' }, false],
    ['both', { apps: ['shop.acme'], grants: [of('viewer', 'acme')] }, 'change', OURS, false],
  ]
  for (const [why, limits, permission, thing, expected] of rows)
    t.equal(may({ ...admin, ...(limits && { limits }) }, permission, thing), expected, why)
  const owner = { ...who(of('viewer', 'acme')), limits: { grants: [of('administrator')] } }
  t.notOk(may(owner, 'change', OURS), 'limits give nothing')
  t.end()
})

t.test('where an organisation may place', (t) => {
  t.ok(mayPlace('acme', { owner: undefined, admits: [] }))
  t.ok(mayPlace('acme', { owner: 'acme', admits: [] }))
  t.notOk(mayPlace('acme', { owner: 'beta', admits: ['gamma'] }))
  t.ok(mayPlace('acme', { owner: 'beta', admits: ['acme'] }))
  t.ok(mayPlace('acme', { owner: 'beta', admits: ['*'] }))
  t.ok(mayPlace(undefined, { owner: 'beta', admits: [] }), 'what is nobody’s is the administrator’s')
  t.end()
})

t.test('who decides about whom', (t) => {
  const view = (...grants: ReturnType<typeof of>[]) => ({
    may: (permission: Permission, thing: Thing) => may(who(...grants), permission, thing),
  })
  const ours = view(of('organisation-administrator', 'acme'))
  t.ok(governs(ours, { organisation: 'acme', grants: [of('viewer', 'acme')] }))
  t.notOk(governs(ours, { organisation: 'acme', grants: [of('administrator')] }), 'it would become that')
  t.notOk(governs(ours, { organisation: 'acme', grants: [of('viewer', 'beta')] }))
  t.notOk(governs(ours, { grants: [of('viewer', 'acme')] }), 'a user of the mesh')
  t.ok(governs(view(of('administrator')), { grants: [of('administrator')] }))
  t.same(refusedGrants([], [of('viewer', 'acme')], ours), [])
  t.match(refusedGrants([], [of('administrator')], ours), [/do not decide/])
  t.match(refusedGrants([of('viewer', 'beta')], [], ours), [/do not decide/])
  t.match(refusedGrants([], [of('viewer')], view(of('administrator'))), [/say in which/])
  t.match(refusedGrants([], [of('administrator', 'acme')], view(of('administrator'))), [/leave out/])
  t.same(
    refusedGrants([of('viewer', 'beta')], [of('viewer', 'beta'), of('viewer', 'acme')], ours),
    [],
    'kept is not given',
  )
  t.end()
})

t.test('a quota is for what is more than before', (t) => {
  const wanted = (instances: number) => ({ services: 1, instances, memoryMb: 0, vcpus: 0 })
  t.same(beyond({ instances: 3 }, wanted(1), wanted(3)), [])
  t.same(beyond({ instances: 3 }, wanted(1), wanted(4)), ['4 instances, and 3 are allowed'])
  t.same(beyond({ instances: 3 }, wanted(9), wanted(8)), [], 'less than before')
  t.same(beyond({}, wanted(9), wanted(99)), [])
  t.end()
})

t.test('a cookie counts where the page of this root asks', (t) => {
  const cookie = 'a=b; __Host-hedgerow=token'
  t.equal(sessionIn({ cookie, 'sec-fetch-site': 'same-origin' }), 'token')
  for (const site of ['same-site', 'cross-site', 'none', undefined])
    t.equal(sessionIn({ cookie, 'sec-fetch-site': site }), undefined)
  t.equal(sessionIn({ cookie: `${cookie}; __Host-hedgerow=other`, 'sec-fetch-site': 'same-origin' }), undefined, 'two')
  t.end()
})

t.test('what is being answered is cut when whoever asked may no longer', (t) => {
  let now: Caller | undefined = { user: 'bob', id: '1', by: 'session', grants: [of('viewer', 'acme')] }
  let changed: () => void = () => undefined
  const cut: string[] = []
  const open = new OpenRequests({
    again: () => now,
    onChanged: (act) => {
      changed = act
      return { [Symbol.dispose]: () => undefined }
    },
    app: (app) => ({ kind: 'app', app, organisation: 'acme' }),
    cluster: () => ({ kind: 'cluster', owner: undefined, admits: [] }),
  })
  const enter = (needs: Need, method: string, caller = now) => {
    const response = { destroy: () => void cut.push(`${method} ${needs}`) as never }
    if (caller !== undefined) open.enter({ caller, needs, params: { name: 'shop.acme.cart.prod' }, method, response })
    return response
  }
  enter('see instance', 'GET')
  const guarded = enter('self', 'GET')
  enter('self', 'POST')
  enter('see instance', 'GET', { user: 'admin', id: 'admin', by: 'credential', grants: [] })
  t.equal(open.countOf('bob'), 3)
  changed()
  t.same(cut, [])
  now = { ...now, grants: [] }
  changed()
  t.same(cut, ['GET see instance'], 'the role is gone')
  let isEntered = true
  open.guard(guarded, () => isEntered)
  changed()
  t.equal(cut.length, 1)
  isEntered = false
  changed()
  t.same(cut.slice(1), ['GET self'], 'what it needs beside')
  now = undefined
  changed()
  t.equal(cut.length, 2, 'the answer of whoever ends its own session is not cut')
  t.end()
})
