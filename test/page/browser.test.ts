import { join } from 'node:path'
import t from 'tap'
import type { Page } from 'playwright-core'
import { fitted, layoutOf } from '../../src/page/model/map-layout.ts'
import { CLIENT, realProvider } from '../orchestrator/identity-provider.ts'
import { send } from '../orchestrator/v1.ts'
import { asked, axeFaults, complaints, logIn, PASSWORD, shopMesh } from './browser.ts'
import { hasChromium, startChromium } from './chromium.ts'

if (!hasChromium) {
  t.pass('chromium is there', { skip: 'no chromium: apt-get install chromium' })
  process.exit()
}

t.setTimeout(280_000)
const provider = await realProvider(
  { sub: 'ann-1', claims: { preferred_username: 'Ann', groups: ['eng'] } },
  (uri) => uri === `${world.credential.url}/v1/login/oidc/callback`,
)
const secret = join(t.testdir({ secret: CLIENT.secret }), 'secret')
const world = await shopMesh({
  oidc: {
    issuer: provider.issuer,
    clientId: CLIENT.clientId,
    clientSecretFile: secret,
    scopes: ['openid', 'profile'],
    userClaim: 'preferred_username',
    groupsClaim: 'groups',
    users: 'created',
    roles: [{ group: 'eng', role: 'viewer', organisation: 'acme' }],
  },
})
const browser = await startChromium()
t.teardown(async () => {
  await browser.close()
  await world[Symbol.asyncDispose]()
  await provider[Symbol.asyncDispose]()
})
const { url } = world.credential
const context = await browser.newContext({ ignoreHTTPSErrors: true, reducedMotion: 'reduce' })
context.setDefaultTimeout(20_000)
const told = complaints(context, url)
const page = await context.newPage()

const PAYMENTS = 'shop.acme.payments.prod'
interface Spec {
  connectivity: string[]
  constraints: object[]
}
const specOf = async (name: string) =>
  ((await asked(world, 'GET', `/v1/services/shop.acme.${name}.prod`)) as { spec: Spec }).spec
const open = (page: Page, hash: string) => page.evaluate(`location.hash = ${JSON.stringify(hash)}`)

t.test('somebody logs in by name and password', async (t) => {
  await page.goto(`${url}/ui/`)
  await page.getByLabel('User', { exact: true }).fill('alice')
  await page.getByLabel('Password', { exact: true }).fill('not her password')
  await page.keyboard.press('Enter')
  await page.getByText('No such user, or not its password.').waitFor()
  t.same(await axeFaults(page), [], 'the login')
  await page.getByLabel('Password', { exact: true }).fill(PASSWORD)
  await page.keyboard.press('Enter')
  await page.locator('.linkstate.live').waitFor()
  await page.getByRole('link', { name: 'Account of alice' }).waitFor()
  t.notMatch(
    await page.evaluate('document.cookie + JSON.stringify(sessionStorage) + JSON.stringify(localStorage)'),
    /hgr|token"/,
  )
  const other = await context.newPage()
  await other.goto(`${url}/ui/`)
  await other.getByRole('link', { name: 'cart' }).waitFor()
  await other.close()
})

const VIEWS = [
  ['#/services', '.rowlink'],
  ['#/services/shop.acme.cart.prod', '.panel .facts'],
  ['#/services/shop.acme.cart.prod.1', '.panel .facts'],
  ['#/calls', '.graph .box'],
  ['#/nodes/berlin%2Frack-1', '.panel .facts'],
  ['#/map', '.map canvas'],
  ['#/why/shop.acme.recommender.prod', '.verdicts'],
  ['#/deploy', '.editor textarea'],
  ['#/account/me', '.sheet'],
  ['#/account/organisations', '.sheet'],
  ['#/account/users', '.sheet'],
  ['#/account/tokens', '.sheet'],
  ['#/account/audit', '.sheets > p, .sheets > table'],
] as const

t.test('every view is accessible', async (t) => {
  for (const [hash, there] of VIEWS) {
    await open(page, hash)
    await page.locator(there).first().waitFor()
    t.same(await axeFaults(page), [], hash)
  }
})

t.test('its colours can be told apart in the dark', async (t) => {
  await page.emulateMedia({ colorScheme: 'dark' })
  for (const [hash, there] of VIEWS.filter(([hash]) => /prod$|rack|users|audit/.test(hash))) {
    await open(page, hash)
    await page.locator(there).first().waitFor()
    t.same(await axeFaults(page, { type: 'rule', values: ['color-contrast'] }), [], hash)
  }
  await page.emulateMedia({ colorScheme: 'light' })
})

t.test('a connection is drawn with the mouse, shown, and applied', async (t) => {
  await open(page, '#/calls')
  const [from, to] = [
    page.locator('.graph .box', { hasText: 'frontend' }),
    page.locator('.graph .box', { hasText: 'payments' }),
  ]
  await from.hover()
  await page.mouse.down()
  await to.hover()
  await page.mouse.up()
  await page.getByRole('heading', { name: 'Connect frontend to payments' }).waitFor()
  await page.getByLabel('Greatest round trip in ms').fill('25')
  await page.getByText('any.closest.local').waitFor()
  t.same(await axeFaults(page), [], 'the question')
  await page.getByRole('button', { name: 'Show the difference' }).click()
  await page.getByText('constraints:').waitFor()
  t.notMatch(await specOf('frontend'), { connectivity: [PAYMENTS] }, 'nothing is applied yet')
  await page.getByRole('button', { name: 'Apply' }).click()
  await page.getByText('frontend calls payments.').waitFor()
  await page.locator('.graph').getByText('≤ 25 ms').waitFor()
  const spec = await specOf('frontend')
  t.ok(spec.connectivity.includes(PAYMENTS))
  t.match(spec.constraints, [{ type: 'latency', service: PAYMENTS, threshold: 25 }])
})

t.test('the same without a mouse, and taken back', async (t) => {
  await page.getByLabel('Service that calls').selectOption('shop.acme.cart.prod')
  await page.getByLabel('Service that is called').selectOption(PAYMENTS)
  await page.getByRole('button', { name: 'Connect', exact: true }).press('Enter')
  await page.getByLabel('Greatest round trip in ms').press('Enter')
  await page.getByRole('button', { name: 'Apply' }).press('Enter')
  await page.getByRole('button', { name: 'Remove cart to payments' }).press('Enter')
  await page.getByRole('button', { name: 'Remove', exact: true }).press('Enter')
  await page.getByRole('button', { name: 'Remove cart to payments' }).waitFor({ state: 'detached' })
  t.same((await specOf('cart')).connectivity, [])
})

t.test('an instance is dragged to another node', async (t) => {
  await open(page, '#/map')
  const canvas = page.locator('.map canvas')
  await canvas.waitFor()
  const lists = await Promise.all(
    ['clusters', 'nodes', 'instances'].map((kind) => asked(world, 'GET', `/v1/${kind}?limit=1000`)),
  )
  const [clusters, nodes, instances] = lists.map((list) => (list as { items: unknown[] }).items)
  const box = await canvas.boundingBox()
  if (box === null) return t.fail('the map has a size')
  const layout = layoutOf({ clusters, nodes, instances } as Parameters<typeof layoutOf>[0], new Map())
  const { scale, x, y } = fitted(layout, box)
  const all = layout.clusters.flatMap(({ nodes }) => nodes)
  const from = all.find(({ dots }) => dots.length > 0)
  const dot = from?.dots[0]
  const to = all.find(({ id }) => id !== from?.id && id.split('/')[0] === from?.id.split('/')[0])
  if (from === undefined || dot === undefined || to === undefined) return t.fail('there is an instance to move')
  const at = (one: { x: number; y: number }, inset: number): [number, number] => [
    box.x + x + (one.x + inset) * scale,
    box.y + y + (one.y + inset) * scale,
  ]
  await page.mouse.move(...at(dot, 4))
  await page.mouse.down()
  await page.mouse.move(...at(to, 20), { steps: 4 })
  await page.getByText(`→ ${to.id}`).waitFor()
  await page.mouse.up()
  await page.getByRole('heading', { name: `to ${to.id}` }).waitFor()
  await page.getByRole('button', { name: 'Move', exact: true }).click()
  await page.getByText(`moves to ${to.id}.`).waitFor()
  return undefined
})

t.test('a token is made, shown once, and revoked', async (t) => {
  await open(page, '#/account/tokens')
  await page.getByRole('button', { name: 'New token' }).click()
  await page.getByLabel('What it is for').fill('ci')
  await page.getByLabel('Role').selectOption('viewer@acme')
  await page.keyboard.press('Enter')
  const text = (await page.locator('.secret').textContent()) ?? ''
  const mine = await send(world, '/v1/me', { token: text })
  t.match(mine.body, { user: 'alice', by: 'token', limits: { grants: [{ role: 'viewer', organisation: 'acme' }] } })
  await page.getByRole('button', { name: 'Done' }).click()
  await page.locator('.secret').waitFor({ state: 'detached' })
  await page.getByRole('button', { name: 'Revoke ci' }).click()
  await page.getByRole('button', { name: 'Revoke', exact: true }).click()
  await page.getByRole('button', { name: 'Revoke ci' }).waitFor({ state: 'detached' })
  t.equal((await send(world, '/v1/me', { token: text })).status, 401)
})

t.test('whoever may only look is offered nothing else', async (t) => {
  const others = await browser.newContext({ ignoreHTTPSErrors: true })
  const theirs = await others.newPage()
  await logIn(theirs, url, 'victor')
  await theirs.getByText('No services yet.').waitFor()
  t.notMatch(await theirs.content(), /shop\.acme|frontend/, 'nothing of another organisation')
  await open(theirs, '#/account')
  await theirs.getByRole('cell', { name: 'see', exact: true }).waitFor()
  t.same(await theirs.locator('.account nav a').allTextContents(), ['You', 'Organisations', 'Tokens'])
  await open(theirs, '#/deploy')
  await theirs.getByText('You may look, and change nothing').waitFor()
  // whose password is changed is not logged in any more
  await asked(world, 'PUT', '/v1/users/victor/password', { password: `${PASSWORD}, indeed` })
  await theirs.getByText('The session has ended. Log in again.').waitFor()
  await others.close()
})

t.test('somebody logs in by the identity provider, and comes back to the page', async (t) => {
  const others = await browser.newContext({ ignoreHTTPSErrors: true })
  const theirs = await others.newPage()
  await theirs.goto(`${url}/ui/`)
  const link = theirs.getByRole('link', { name: `Log in with ${new URL(provider.issuer).host}` })
  await link.waitFor()
  t.same(await axeFaults(theirs), [], 'the login')
  await link.click()
  await theirs.locator('.linkstate.live').waitFor()
  await theirs.getByRole('link', { name: 'Account of ann' }).waitFor()
  await theirs.getByRole('link', { name: 'cart' }).waitFor()
  t.equal(await theirs.evaluate('location.href'), `${url}/ui/#/services`)
  await theirs.reload()
  await theirs.getByRole('link', { name: 'Account of ann' }).waitFor()
  provider.grants.refusal = { error: 'access_denied', error_description: 'not today' }
  await theirs.goto(`${url}/v1/login/oidc`)
  await theirs.getByText('access_denied: not today').waitFor()
  t.equal((await theirs.goto(`${url}/v1/login/oidc/callback?code=x&state=y`))?.status(), 401, 'what was not begun')
  await others.close()
})

t.test('while the root is gone the page says so, and shows what it knew', async (t) => {
  await open(page, '#/services')
  await page.getByRole('link', { name: 'cart' }).waitFor()
  await world.stopRoot()
  await page.getByText('No connection to the root.').waitFor()
  t.ok(await page.getByRole('link', { name: 'cart' }).isVisible())
  await world.startRoot()
  await page.locator('.linkstate.live').waitFor()
  t.equal(await page.locator('p.lost').count(), 0, 'it goes on by itself, with the same session')
})

t.test('who has logged out is nobody, also in a tab that was left open', async (t) => {
  await page.getByRole('button', { name: 'Log out' }).click()
  await page.getByLabel('User', { exact: true }).waitFor()
  await page.reload()
  await page.getByLabel('User', { exact: true }).waitFor()
  t.same(told, [], 'no error, nothing refused by the policy, nothing from elsewhere')
})
