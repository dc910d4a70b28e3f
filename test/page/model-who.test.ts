import t from 'tap'
import { namesIn, numberIn } from '../../src/page/model/entered.ts'
import { routeIn } from '../../src/page/model/route.ts'
import { grantIn, grantText, may, type Me, namespaceOf, tabsOf } from '../../src/page/model/who.ts'

const acme = { name: 'acme', namespaces: ['acme', 'shop'], permissions: ['see', 'change'] as const }
const me = (more: object = {}) =>
  ({
    user: 'alice',
    by: 'session',
    grants: [],
    organisations: [acme],
    isAdministrator: false,
    ...more,
  }) as unknown as Me
const nobody = me({ organisations: [] })
const admin = me({ organisations: [], isAdministrator: true })

t.test('what is offered to whom', async (t) => {
  const rows = [
    ['of its namespace', me(), 'change', namespaceOf('web.shop.cart.prod'), true],
    ['of another', me(), 'change', namespaceOf('web.beta.cart.prod'), false],
    ['what it may not', me(), 'operate', 'any', false],
    ['somewhere', me(), 'change', 'any', true],
    ['of its organisation', me(), 'see', { organisation: 'acme' }, true],
    ['of the mesh', me(), 'mesh', 'mesh', false],
    ['nothing without a role', nobody, 'see', 'any', false],
    ['everything to the administrator', admin, 'mesh', 'mesh', true],
    ['everything, until the root has said who asks', undefined, 'change', 'any', true],
  ] as const
  for (const [why, who, permission, of, is] of rows) t.equal(may(who, permission, of), is, why)
  t.same(tabsOf(nobody), ['me', 'tokens'])
  t.same(tabsOf(me()), ['me', 'organisations', 'tokens'])
  t.same(tabsOf(admin), ['me', 'organisations', 'users', 'clusters', 'tokens', 'audit'])
})

t.test('what was entered', async (t) => {
  const form = new FormData()
  form.set('names', ' a, b  a\n')
  form.set('most', '')
  t.same(namesIn(form, 'names'), ['a', 'b'])
  t.same(namesIn(form, 'none'), [])
  t.equal(numberIn(form, 'most'), undefined, 'without limit')
  form.set('most', '0')
  t.equal(numberIn(form, 'most'), 0)
  t.same(grantIn('viewer@acme'), { role: 'viewer', organisation: 'acme' })
  t.equal(grantText({ role: 'viewer', organisation: 'acme' }), 'viewer of acme')
  t.equal(grantIn(''), undefined)
  t.same(routeIn('#/account/users'), { view: 'account', open: 'users' })
})
