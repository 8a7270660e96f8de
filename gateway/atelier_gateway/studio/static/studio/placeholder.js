document.body.textContent = "Atelier";
