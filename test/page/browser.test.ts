import t from 'tap'
import type { Page } from 'playwright-core'
import { send } from '../orchestrator/v1.ts'
import { asked, axeFaults, complaints, hasChromium, logIn, PASSWORD, shopMesh, startChromium } from './browser.ts'

if (!hasChromium) {
  t.pass('chromium is there', { skip: 'no chromium: apt-get install chromium' })
  process.exit()
}

t.setTimeout(150_000)
const world = await shopMesh()
const browser = await startChromium()
t.teardown(async () => {
  await browser.close()
  await world[Symbol.asyncDispose]()
})
const { url } = world.credential
const context = await browser.newContext({ ignoreHTTPSErrors: true, reducedMotion: 'reduce' })
context.setDefaultTimeout(20_000)
const told = complaints(context, url)
const page = await context.newPage()

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

t.test('who has logged out is nobody, also in a tab that was left open', async (t) => {
  await page.getByRole('button', { name: 'Log out' }).click()
  await page.getByLabel('User', { exact: true }).waitFor()
  await page.reload()
  await page.getByLabel('User', { exact: true }).waitFor()
  t.same(told, [], 'no error, nothing refused by the policy, nothing from elsewhere')
})
