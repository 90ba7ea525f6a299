# The site as it was before any guest: each of these may be answered by one now, or by both.

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.html import format_html
from django.utils.translation import get_language
from django.views.decorators.http import require_safe

from .models import Book

LONGEST_LIST = 20


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "catalogue/home.html", {"books": Book.objects.all()})


@require_safe
def books(request: HttpRequest) -> HttpResponse:
    found = Book.matching(request.GET.get("q", ""))[:LONGEST_LIST]
    return JsonResponse({"books": [_public(book) for book in found]})


@require_safe
def book(request: HttpRequest, pk: int) -> HttpResponse:
    found = Book.objects.filter(pk=pk).first()
    if found is None:
        return JsonResponse({"error": "no such book"}, status=404)
    return JsonResponse(_public(found))


def _public(book: Book) -> dict[str, object]:
    return {name: getattr(book, name) for name in ("id", "title", "author", "year", "isbn", "copies")}


@require_safe
def isbn(request: HttpRequest) -> HttpResponse:
    digits = request.GET.get("number", "").replace("-", "").replace(" ", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) == 13):
        return JsonResponse({"error": "number: 13 digits expected"}, status=400)
    total = sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits))
    return JsonResponse({"isbn": digits, "valid": total % 10 == 0})


@require_safe
def me(request: HttpRequest) -> HttpResponse:
    user = None
    if request.user.is_authenticated:
        user = {
            "id": str(request.user.pk),
            "name": request.user.get_username(),
            "groups": sorted(group.name for group in request.user.groups.all()),
            "staff": request.user.is_staff,
        }
    return JsonResponse({"user": user, "locale": get_language()})


@require_safe
def cover(request: HttpRequest, pk: int) -> HttpResponse:
    found = Book.objects.filter(pk=pk).first()
    if found is None:
        return JsonResponse({"error": "no such book"}, status=404)
    svg = format_html(
        '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="160">'
        '<rect width="120" height="160" fill="#357"/>'
        '<text x="8" y="40" fill="#fff" font-size="10">{}</text></svg>',
        found.title,
    )
    return HttpResponse(svg, content_type="image/svg+xml")
