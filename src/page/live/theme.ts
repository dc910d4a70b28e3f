/** Light or dark: as it was chosen here, else as the machine says. */
export type Theme = 'light' | 'dark'

const KEPT = 'hedgerow.theme'
const isDark = matchMedia('(prefers-color-scheme: dark)')

export function chosenTheme(): Theme {
  const kept = localStorage.getItem(KEPT)
  if (kept === 'light' || kept === 'dark') return kept
  return isDark.matches ? 'dark' : 'light'
}

export function setTheme(theme: Theme): Theme {
  localStorage.setItem(KEPT, theme)
  applyTheme()
  return theme
}

/** Also when the machine changes its mind, at dusk for example. */
export function followTheme(): void {
  applyTheme()
  isDark.addEventListener('change', applyTheme)
}

function applyTheme(): void {
  document.documentElement.dataset['theme'] = chosenTheme()
}
