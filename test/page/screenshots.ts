/** `npm run screenshots`: pictures of each view of the page, from a mesh with stand-ins for programs, into `docs/pictures`. */
import { writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { Page } from 'playwright-core'
import { scriptOptions } from '../../.config/script-options.ts'
import { asked, logIn, shopMesh } from './browser.ts'
import { startChromium } from './chromium.ts'

const PICTURES = resolve(import.meta.dirname, '../../docs/pictures')
/** Smaller shows blocks around letters, larger makes files that a clone downloads for nothing. */
const QUALITY = 72

const VIEWS = [
  ['services', '#/services', '.rowlink'],
  ['service', '#/services/shop.acme.cart.prod', '.panel .facts'],
  ['calls', '#/calls', '.graph .box'],
  ['nodes', '#/nodes/berlin%2Frack-1', '.panel .facts'],
  ['map', '#/map', '.map canvas'],
  ['why', '#/why/shop.acme.recommender.prod', '.verdicts'],
  ['deploy', '#/deploy', '.editor textarea'],
  ['account', '#/account/me', '.sheet'],
  ['users', '#/account/users', '.sheet'],
  ['audit', '#/account/audit', '.sheets > p, .sheets > table'],
] as const

scriptOptions({
  name: 'npm run screenshots',
  about: 'Takes pictures of each view of the page for the docs.',
  options: {},
})
await using world = await shopMesh()
const cart = 'shop.acme.cart.prod'
await asked(world, 'PUT', `/v1/services/shop.acme.frontend.prod/connections/${cart}`, { latencyMs: 20 })
const browser = await startChromium()
try {
  const { url } = world.credential
  const context = await browser.newContext({
    ignoreHTTPSErrors: true,
    reducedMotion: 'reduce',
    viewport: { width: 1_180, height: 720 },
  })
  const page = await context.newPage()
  await page.goto(`${url}/ui/`)
  await page.getByLabel('User', { exact: true }).waitFor()
  await take(page, 'login')
  await logIn(page, url, 'alice')
  for (const [name, hash, there] of VIEWS) {
    await page.evaluate(`location.hash = ${JSON.stringify(hash)}`)
    await page.locator(there).first().waitFor()
    await page.evaluate('new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))')
    await take(page, name)
  }
  await page.setViewportSize({ width: 390, height: 780 })
  await page.emulateMedia({ colorScheme: 'dark' })
  await page.evaluate("location.hash = '#/services'")
  await page.locator('.rowlink').first().waitFor()
  await take(page, 'phone')
} finally {
  await browser.close()
}

async function take(page: Page, name: string): Promise<void> {
  const session = await page.context().newCDPSession(page)
  const { data } = await session.send('Page.captureScreenshot', { format: 'webp', quality: QUALITY })
  await session.detach()
  const bytes = Buffer.from(data, 'base64')
  writeFileSync(join(PICTURES, `page-${name}.webp`), bytes)
  process.stdout.write(`page-${name}.webp ${Math.round(bytes.length / 1_024)} KB\n`)
}
