import { type Browser, chromium } from 'playwright-core'
import { hasTool } from '../../src/lab/system-tools.ts'

export const hasChromium = hasTool('chromium')

/** The browser of the machine; as root it runs without a sandbox of its own, and sees nothing but our page. */
export function startChromium(): Promise<Browser> {
  return chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu'] })
}
